"""(x - m) / sqrt(v + eps) * w + b = batch_norm(x, w, b, m, v): a frozen norm that is spelled out is one. Recorded graphs.

Detectors freeze their batch norms, and write them as arithmetic on four vectors, in any order: `x * s + (b - m * s)` with
`s = w * rsqrt(v + eps)`, with a view of each vector or of what is made of them. No spelling is looked for: where a value is
scaled and shifted by what is made of four stored vectors alone, that is computed with random numbers, and compared with the
norm for every order of the vectors and every number that the code adds.

Cost: for each such place, 24 orders times the numbers, on vectors of one number for each channel.
"""

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.capture.recorder import getitem
from fxmap.capture.rewrites.driver import FxRule, sweep
from fxmap.capture.rewrites.origins import Origins

_ATEN = torch.ops.aten
_ADD, _SUB = _ATEN.add.Tensor, _ATEN.sub.Tensor
_MUL, _DIV = _ATEN.mul.Tensor, _ATEN.div.Tensor

# The largest number that is taken for an eps, and the relative error up to which two ways to compute are one.
_LARGEST_EPS, _SAME = 0.1, 1e-9


def restore_norms(graph: fx.Graph, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Replace every frozen norm that is spelled out by a batch norm, in place; returns the names of replaced nodes.

    What only the replaced nodes read is removed. Linear in the number of nodes.
    """
    left: list[fx.Node] = []

    def restore(node: fx.Node, origins: Origins) -> fx.Node | str:
        found = _Frozen.at(node, origins)
        if isinstance(found, str):
            return found
        made = found.norm(node, origins)
        if isinstance(made, fx.Node):
            left.extend(found.nodes)
        return made

    replaced = sweep(graph, tensors, (FxRule("frozen norms", frozenset({_ADD, _SUB}), restore),))
    dead = set(left)
    for node in reversed(list(graph.nodes)):
        if node in dead and not node.users:
            graph.erase_node(node)
    return replaced


class _Frozen:
    """A value, the nodes that scale and shift it by weights alone, the four vectors these are made of, and numbers added."""

    def __init__(self, value: fx.Node, chain: list[fx.Node], weights: list[fx.Node], vectors: list[fx.Node]) -> None:
        self.value, self.chain, self.weights, self.vectors = value, chain, weights, vectors
        self.nodes = [*weights, *chain]

    @classmethod
    def at(cls, node: fx.Node, origins: Origins) -> "_Frozen | str":
        """Return the frozen norm that ends at a node, or why there is none."""
        chain: list[fx.Node] = []
        at: Any = node
        while (part := _scaled(at, origins)) is not None and (at is node or len(at.users) == 1):
            chain.append(at)
            at = part
        shape: tuple[int, ...] = at.meta.get("shape", ()) if isinstance(at, fx.Node) else ()
        if len(chain) < 2 or len(shape) < 2:
            return "no value is scaled and shifted by weights alone"
        weights = _behind([part for one in chain for part in one.all_input_nodes if origins.is_weight(part)])
        vectors = [one for one in weights if one.op == "get_attr"]
        if len(vectors) != 4 or any(one.op == "get_attr" and str(one.target) not in origins.paths for one in weights):
            return "it is not made of four stored vectors"
        if any(_count(one) != shape[1] or shape[1] < 2 for one in vectors):
            return "its vectors are not of the channels"
        return cls(at, chain[::-1], weights, vectors)

    def norm(self, node: fx.Node, origins: Origins) -> fx.Node | str:
        """Insert the batch norm, and return its result; or why it is none."""
        try:
            roles = self._roles()
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            return f"it cannot be computed by itself: {error}"
        if roles is None:
            return "it is no batch norm"
        order, eps = roles
        shape = self.value.meta["shape"]
        with origins.graph.inserting_before(node):
            flat = [
                one if len(one.meta["shape"]) == 1 else origins.insert(one, _ATEN.view.default, (one, [-1]), (shape[1],))
                for one in order
            ]
            target = _ATEN.native_batch_norm.default
            made = origins.insert(node, target, (self.value, *flat, False, 0.1, eps), shape)
            return origins.insert(node, getitem, (made, 0), node.meta["shape"])

    def _roles(self) -> tuple[tuple[fx.Node, ...], float] | None:
        """Return the nodes of weight, bias, mean and variance, and the eps, or None where no choice computes the same."""
        generator = torch.Generator().manual_seed(0)
        drawn = {
            one: torch.rand(one.meta["shape"], generator=generator, dtype=torch.float64) * 0.5 + 0.01 for one in self.vectors
        }
        shape = self.value.meta["shape"]
        shift, both = (
            self._computed(drawn, torch.full((1, shape[1], *[1] * (len(shape) - 2)), x, dtype=torch.float64))
            for x in (0.0, 1.0)
        )
        if shift.numel() != shape[1] or shift.shape[1:2] != shape[1:2]:
            return None
        shift, scale = shift.flatten(), (both - shift).flatten()
        flat = {one: value.flatten() for one, value in drawn.items()}
        for weight, bias, mean, variance in permutations(self.vectors):
            for eps in self._numbers():
                wanted = flat[weight] / (flat[variance] + eps).sqrt()
                if _is_same(scale, wanted) and _is_same(shift, flat[bias] - flat[mean] * wanted):
                    return (weight, bias, mean, variance), eps
        return None

    def _computed(self, drawn: Mapping[fx.Node, Tensor], value: Tensor) -> Tensor:
        known: dict[fx.Node, Any] = {**drawn, self.value: value}
        for one in (*self.weights, *self.chain):
            if one not in known:
                args, kwargs = fx.map_arg((one.args, one.kwargs), known.__getitem__)
                known[one] = one.target(*args, **kwargs)  # type: ignore[operator]
        result: Tensor = known[self.chain[-1]]
        return result

    def _numbers(self) -> Iterator[float]:
        yield from dict.fromkeys(
            float(number)
            for one in self.weights
            for number in one.args
            if isinstance(number, float) and 0 < number <= _LARGEST_EPS
        )


def _scaled(node: Any, origins: Origins) -> fx.Node | None:
    """Return the value that a node adds a weight to, or multiplies by one; None where it does something else."""
    if not isinstance(node, fx.Node) or node.target not in (_ADD, _SUB, _MUL, _DIV) or node.kwargs or len(node.args) != 2:
        return None
    one, other = node.args
    if origins.is_weight(one) and node.target in (_ADD, _MUL):
        one, other = other, one
    if not isinstance(one, fx.Node) or one not in origins.inputs or not origins.is_weight(other):
        return None
    return one if one.meta.get("shape") == node.meta.get("shape") else None


def _behind(nodes: list[fx.Node]) -> list[fx.Node]:
    """Return nodes and all that they read, in the order of the graph."""
    found: dict[fx.Node, None] = {}
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found[node] = None
            stack.extend(node.all_input_nodes)
    return sorted(found, key=lambda node: node._sort_key)


def _count(node: fx.Node) -> int:
    shape = node.meta.get("shape", ())
    longest: int = max(shape, default=0)
    return longest if torch.Size(shape).numel() == longest else 0


def _is_same(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= _SAME * other.abs().max())
