"""(a + ib)(c + id) = (ac - bd) + i(ad + bc): complex arithmetic on pairs of real numbers is written as real arithmetic.

    view_as_real(view_as_complex(x) * f) = stack(a * c - b * s, a * s + b * c)      with x = [a, b], f = c + is

Rotary embeddings turn channels either as complex numbers or as pairs of real ones: after this rewrite both are one graph.
It starts where complex numbers become real, and goes back to where real ones became complex, over products, sums,
conjugates and movements; what lies in between may depend on constants, and on no parameter. If anything else is met on the
way (a Fourier transform), the graph stays as it is. Rewrites of a recorded graph that hold for every input.

Cost: linear in the number of nodes between.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxmap.capture.rewrites.driver import FxRule, sweep
from fxmap.capture.rewrites.origins import Origins

_ATEN = torch.ops.aten
_ADD, _SUB, _MUL, _NEG = _ATEN.add.Tensor, _ATEN.sub.Tensor, _ATEN.mul.Tensor, _ATEN.neg.default
_AS_REAL, _AS_COMPLEX, _SELECT = _ATEN.view_as_real.default, _ATEN.view_as_complex.default, _ATEN.select.int
_COMPLEX, _EXPAND = _ATEN.complex.default, _ATEN.expand.default
_CONJUGATES = {_ATEN._conj.default, _ATEN._conj_physical.default, _ATEN.conj_physical.default}

# They do the same to both parts of a complex tensor.
_MOVEMENT = {
    *(_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default, _ATEN.permute.default, _ATEN.transpose.int),
    *(_ATEN.unsqueeze.default, _ATEN.squeeze.dim, _ATEN.expand.default, _ATEN.slice.Tensor, _ATEN.select.int),
    *(_ATEN.clone.default, _ATEN.contiguous.default, _ATEN.alias.default, _ATEN.resolve_conj.default),
}

_Pair = tuple[fx.Node, fx.Node]


def as_real_parts(graph: fx.Graph, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Write complex arithmetic on data as real arithmetic, in place; returns the names of replaced nodes.

    `tensors` are those that the graph reads, by path. Complex nodes that nothing reads any more are removed.
    """
    parameters = {path for path, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
    replaced = sweep(graph, parameters, (FxRule("complex numbers as pairs", frozenset({_AS_REAL}), _stacked),))
    if replaced:
        for node in reversed(list(graph.nodes)):
            if not node.users and (_is_complex(node) or node.target is _AS_COMPLEX) and node.op == "call_function":
                graph.erase_node(node)
    return replaced


def _stacked(node: fx.Node, origins: Origins) -> fx.Node | str:
    value = node.all_input_nodes[0]
    if value not in origins.inputs:
        return "it depends on no input"
    if not _is_convertible(value, origins, {}):
        return "its numbers come from more than products, sums and movements of pairs"
    with origins.graph.inserting_before(node):
        pair = _pair(value, node, origins, {})
        return origins.insert(node, _ATEN.stack.default, (list(pair), -1), node.meta["shape"])


def _is_complex(node: Any) -> bool:
    dtype = node.meta.get("dtype") if isinstance(node, fx.Node) else None
    return isinstance(dtype, torch.dtype) and dtype.is_complex


def _is_convertible(node: fx.Node, origins: Origins, seen: dict[fx.Node, bool]) -> bool:
    """Whether a complex value is made of pairs and constants, by operations that `_pair` knows."""
    if node not in seen:
        numbers = [part for part in node.all_input_nodes if _is_complex(part)] if node in origins.inputs else []
        seen[node] = _is_known(node, origins) and all(_is_convertible(part, origins, seen) for part in numbers)
    return seen[node]


def _is_known(node: fx.Node, origins: Origins) -> bool:
    if "shape" not in node.meta:
        return False
    if node not in origins.inputs:
        return node not in origins.stored
    if node.target in (_ADD, _SUB, _MUL):
        return len(node.args) == 2 and not node.kwargs and not any(isinstance(value, complex) for value in node.args)
    return node.target in (_AS_COMPLEX, _COMPLEX) or node.target in _CONJUGATES or node.target in _MOVEMENT


def _pair(node: fx.Node, like: fx.Node, origins: Origins, made: dict[fx.Node, _Pair]) -> _Pair:
    """Insert the real and the imaginary part of a complex value before the node `like`."""
    if node not in made:
        made[node] = _parts(node, like, origins, made)
    return made[node]


def _parts(node: fx.Node, like: fx.Node, origins: Origins, made: dict[fx.Node, _Pair]) -> _Pair:
    """Insert both parts of a complex value: of a constant as a view, of a value from the parts of its operands."""
    shape: tuple[int, ...] = node.meta["shape"]

    def do(target: Any, *args: Any) -> fx.Node:
        return origins.insert(like, target, args, shape)

    args: list[Any] = list(node.args)
    if node not in origins.inputs or node.target is _AS_COMPLEX:
        numbers = args[0] if node.target is _AS_COMPLEX else origins.insert(like, _AS_REAL, (node,), (*shape, 2))
        return do(_SELECT, numbers, -1, 0), do(_SELECT, numbers, -1, 1)
    if node.target is _COMPLEX:
        return do(_EXPAND, args[0], list(shape)), do(_EXPAND, args[1], list(shape))
    operands = [_pair(part, like, origins, made) if _is_complex(part) else part for part in args]
    if node.target in (_ADD, _SUB, _MUL):
        return _arithmetic(node.target, operands, do, list(shape))
    re, im = operands[0]
    if node.target in _CONJUGATES:
        return re, do(_NEG, im)
    return do(node.target, re, *args[1:]), do(node.target, im, *args[1:])


def _arithmetic(target: Any, operands: list[Any], do: Callable[..., fx.Node], shape: list[int]) -> _Pair:
    """Insert a sum, a difference or a product of two operands, each a pair or one real number."""
    one, other = operands
    if isinstance(one, tuple) and isinstance(other, tuple):
        (a, b), (c, d) = one, other
        if target is not _MUL:
            return do(target, a, c), do(target, b, d)
        return do(_SUB, do(_MUL, a, c), do(_MUL, b, d)), do(_ADD, do(_MUL, a, d), do(_MUL, b, c))
    if target is _MUL:
        (a, b), real = (one, other) if isinstance(one, tuple) else (other, one)
        return do(_MUL, a, real), do(_MUL, b, real)
    # A real number is added to the real part alone.
    if isinstance(one, tuple):
        return do(target, one[0], other), do(_EXPAND, one[1], shape)
    return do(target, one, other[0]), do(_EXPAND, other[1] if target is _ADD else do(_NEG, other[1]), shape)
