"""Contract: an einsum with weights is a linear layer. Rewrites of a recorded graph that hold for every input.

    bmm(x, w) = mm(x, w)                               where the batch is one, and w depends on parameters alone
    movement(mm(x, w)) + b = movement(mm(x, w) + b')   where b has one number for every column of w, in their order
    (x + movement(mm(y, w))) + b = x + (movement(mm(y, w)) + b)

`einsum("bnd,hdk->bhnk", x, wq) + bq` is recorded as such a product, with its heads moved to the front, and a bias for each
of them. To find the column that each number of a bias is added to, the movement is applied to the numbers of the columns:
linear in the size of the product.
"""

import math
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.capture.rewrites.driver import FxRule
from fxmap.capture.rewrites.origins import Origins

_ATEN = torch.ops.aten


_BMM, _MM, _ADD, _VIEW, _T = _ATEN.bmm.default, _ATEN.mm.default, _ATEN.add.Tensor, _ATEN.view.default, _ATEN.t.default


_MOVEMENT = {
    *(_VIEW, _ATEN._unsafe_view.default, _ATEN.reshape.default, _ATEN.permute.default, _ATEN.transpose.int, _T),
    *(_ATEN.unsqueeze.default, _ATEN.squeeze.dim, _ATEN.clone.default, _ATEN.contiguous.default),
}


def _product(node: fx.Node, origins: Origins) -> fx.Node | str:
    """Rewrite a batched product with a weight, where the batch is one, as a product of two matrices."""
    one, other = node.all_input_nodes if len(node.all_input_nodes) == 2 else (node, node)
    shapes = one.meta.get("shape", ()), other.meta.get("shape", ())
    if origins.is_weight(one) == origins.is_weight(other):
        return "it is not of a value and a weight"
    if not all(len(s) == 3 and s[0] == 1 for s in shapes):
        return "the batch is not one"
    rows, columns = shapes[0][1], shapes[1][2]
    with origins.graph.inserting_before(node):
        left, right = (
            origins.insert(node, _VIEW, (part, list(shape[1:])), shape[1:])
            for part, shape in zip((one, other), shapes, strict=True)
        )
        if origins.is_weight(other):
            product = origins.insert(node, _MM, (left, right), (rows, columns))
        else:
            turned = [origins.insert(node, _T, (part,), part.meta["shape"][::-1]) for part in (right, left)]
            product = origins.insert(node, _MM, tuple(turned), (columns, rows))
            product = origins.insert(node, _T, (product,), (rows, columns))
        return origins.insert(node, _VIEW, (product, [1, rows, columns]), (1, rows, columns))


def _with_bias(node: fx.Node, origins: Origins) -> fx.Node | str:
    """Add a bias directly to the matrix product, instead of to its moved result or to a sum that contains it."""
    operands: list[Any] = list(node.args)
    for value, bias in (operands, operands[::-1]) if len(operands) == 2 and not node.kwargs else ():
        if not origins.is_weight(bias) or "shape" not in bias.meta:
            continue
        with origins.graph.inserting_before(node):
            made = _biased(node, value, bias, origins)
            if made is not None:
                return made
            for summand, other in _summands(value, node):
                made = _biased(node, summand, bias, origins)
                if made is not None:
                    return origins.insert(node, _ADD, (other, made), node.meta["shape"])
    return "it adds no weight with one number for every column of a product"


def _summands(value: Any, total: fx.Node) -> list[tuple[Any, Any]]:
    """Return the summands of a sum that has the total's shape and no other reader: each one together with the other."""
    if not isinstance(value, fx.Node) or value.target is not _ADD or len(value.args) != 2 or value.kwargs:
        return []
    if len(value.users) > 1 or value.meta.get("shape") != total.meta.get("shape"):
        return []
    one, other = value.args
    return [(one, other), (other, one)]


def _biased(node: fx.Node, value: Any, bias: fx.Node, origins: Origins) -> fx.Node | None:
    """Return a moved product with the bias added before the movement; None if it is no such product, or no bias that fits.

    A bias fits if it has one number for each column of the product, in their order.
    """
    product, chain = _moved(value)
    if not chain or not _one_a_column(product, chain, bias.meta["shape"]):
        return None
    columns = product.meta["shape"][-1]
    flat = origins.insert(node, _VIEW, (bias, [columns]), (columns,)) if len(bias.meta["shape"]) != 1 else bias
    made = origins.insert(product, _ADD, (product, flat), product.meta["shape"])
    for step in chain:
        made = origins.insert(step, step.target, (made, *step.args[1:]), step.meta.get("shape", ()))
        made.kwargs = dict(step.kwargs)
    return made


def _moved(value: Any) -> tuple[fx.Node, list[fx.Node]]:
    """Return the matrix product that a value is moved from, and the movements, in order; none if there is no product."""
    chain: list[fx.Node] = []
    while isinstance(value, fx.Node) and value.target in _MOVEMENT and len(value.users) == 1:
        chain.append(value)
        value = value.args[0]
    known = isinstance(value, fx.Node) and value.target is _MM and len(value.users) == 1 and "shape" in value.meta
    return value, chain[::-1] if known else []


def _one_a_column(product: fx.Node, chain: list[fx.Node], bias: tuple[int, ...]) -> bool:
    """Whether each number of a bias meets one column of the product, in the order of the columns."""
    columns = product.meta["shape"][-1]
    numbers = torch.arange(math.prod(bias)).reshape(bias)
    moved = torch.arange(columns).expand(product.meta["shape"]).clone()
    for step in chain:
        moved = _call(step, moved)
    if numbers.numel() != columns or numbers.dim() > moved.dim():
        return False
    sizes = zip(reversed(numbers.shape), reversed(moved.shape), strict=False)
    return all(size in (1, other) for size, other in sizes) and bool((moved == numbers).all())


def _call(step: fx.Node, value: Tensor) -> Tensor:
    target: Any = step.target
    moved: Tensor = target(value, *step.args[1:], **step.kwargs)
    return moved


CONTRACT = (
    FxRule("products with a weight in a batch of one", frozenset({_BMM}), _product),
    FxRule("biases behind moved products", frozenset({_ADD}), _with_bias),
)
