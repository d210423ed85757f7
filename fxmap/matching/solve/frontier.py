"""The frontier: how far the destination is known, and the first values that are not affine in what is unknown.

A value is known if no unknown weight changes it, and affine if it is an affine function of the unknown ones. Both are seen
by running with a few choices of these: at 0, at a, at b, at a + b, at -a. The first operations that are neither are the
frontier; what they read must be solved for before the run can go on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor, fx

from fxmap.capture.captured import Captured
from fxmap.matching.solve.source import elements
from fxmap.matching.solve.stacked import StackedInterpreter, Unstackable, Value, Values
from fxmap.matching.solve.unknowns import Weights

# So many samples decide whether a value is affine.
_FEW = 3


class State(Enum):
    """What is known of a node's value."""

    KNOWN = auto()
    AFFINE = auto()
    CURVED = auto()  # the frontier
    BEHIND = auto()


@dataclass
class Frontier:
    """The state of every node, the values of the known ones, and the nodes of the frontier in the order of the graph."""

    states: dict[fx.Node, State]
    values: Values
    curved: list[fx.Node]


class Advance:
    """Computes the frontier of a destination for given weights."""

    def __init__(self, captured: Captured, inputs: list[Tensor]) -> None:
        self.captured, self.inputs = captured, inputs
        self.nodes = _live(captured.graph)
        self.interpreter = StackedInterpreter(captured)
        placeholders = [node for node in self.nodes if node.op == "placeholder"]
        self.given = dict(zip(placeholders, inputs, strict=False))
        self.upstream: dict[fx.Node, frozenset[str]] = {}
        for node in self.nodes:
            own = {str(node.target)} if node.op == "get_attr" and str(node.target) in captured.tensors else set()
            paths = {captured.canonical[path] for path in own}
            self.upstream[node] = frozenset(paths.union(*(self.upstream[part] for part in node.all_input_nodes)))
        self.fed = {node for node in self.nodes if node.op == "placeholder"}
        for node in self.nodes:
            if any(part in self.fed for part in node.all_input_nodes):
                self.fed.add(node)

    def weight(self, path: str, weights: Weights, numbers: Tensor) -> Tensor:
        """Return the tensor of a path, from the vector of all numbers."""
        layout = weights.layout
        canonical = layout.canonical[path]
        if canonical not in layout.shapes:
            return layout.fixed[path]
        return layout.tensor(canonical, numbers[..., layout.place(canonical)])

    def __call__(self, weights: Weights, cached: Mapping[fx.Node, Value]) -> Frontier:
        """Return the frontier; `cached` are values that are known already.

        Raises:
            Unstackable: see `StackedInterpreter.node`.
        """
        tried = self._choices(weights)
        open_paths = {path for path in weights.layout.shapes if weights.unknown(path)}
        states: dict[fx.Node, State] = {}
        values: Values = {}
        trials: dict[fx.Node, list[Value]] = {}
        curved = []
        with torch.no_grad():
            for node in self.nodes:
                if node.op == "output":
                    continue
                if not self.upstream[node] & open_paths:
                    states[node], values[node] = State.KNOWN, self._known(node, weights, values, cached)
                    continue
                if node.op == "get_attr":
                    states[node] = State.AFFINE
                    trials[node] = [Value(self.weight(str(node.target), weights, n), stacked=False) for n in tried]
                    continue
                parts = [states[part] for part in node.all_input_nodes]
                if State.CURVED in parts or State.BEHIND in parts:
                    states[node] = State.BEHIND
                    continue
                if all(part is State.KNOWN for part in parts):
                    states[node], values[node] = State.KNOWN, self._known(node, weights, values, cached)
                    continue
                results = self._results(node, values, trials)
                states[node] = State.CURVED if results is None else _state(results)
                if states[node] is State.KNOWN:
                    values[node] = self._known_of_affine(node, weights, values)
                elif states[node] is State.AFFINE:
                    assert results is not None
                    trials[node] = results
                else:
                    curved.append(node)
        return Frontier(states, values, curved)

    def _choices(self, weights: Weights) -> list[Tensor]:
        generator = torch.Generator().manual_seed(3)
        a, b = (torch.randn(len(weights.numbers), generator=generator, dtype=torch.float64) for _ in range(2))
        free = ~weights.known
        return [torch.where(free, tried, weights.numbers) for tried in (torch.zeros_like(a), a, b, a + b, -a)]

    def _known(self, node: fx.Node, weights: Weights, values: Values, cached: Mapping[fx.Node, Value]) -> Value:
        if node in cached:
            return cached[node]
        if node.op == "placeholder":
            return Value(self.given.get(node), stacked=True)
        if node.op == "get_attr" and str(node.target) in self.captured.tensors:
            return Value(self.weight(str(node.target), weights, weights.numbers), stacked=False)
        return self.interpreter.node(node, values)

    def _known_of_affine(self, node: fx.Node, weights: Weights, values: Values) -> Value:
        """Return the value of a node that reads unknown weights and does not depend on them."""
        return self.recomputed(node, weights, values, {})

    def recomputed(
        self, goal: fx.Node, weights: Weights, values: Mapping[fx.Node, Value], leaves: Mapping[str, Value]
    ) -> Value:
        """Run what lies between the known values and a node, with the `leaves` in the place of weights, by path."""
        made: Values = {}
        waiting = [goal]
        needed: set[fx.Node] = set()
        while waiting:
            node = waiting.pop()
            if node not in needed and node not in values:
                needed.add(node)
                waiting += node.all_input_nodes
        for node in self.nodes:
            if node in needed:
                if node.op == "get_attr" and str(node.target) in self.captured.tensors:
                    canonical = weights.layout.canonical[str(node.target)]
                    own = Value(self.weight(str(node.target), weights, weights.numbers), stacked=False)
                    made[node] = leaves.get(canonical, own)
                else:
                    made[node] = self.interpreter.node(node, _Both(made, values))
        return made[goal]

    def _results(self, node: fx.Node, values: Values, trials: Mapping[fx.Node, list[Value]]) -> list[Value] | None:
        results = []
        for index in range(5):
            read = {
                part: trials[part][index] if part in trials else values[part].first(_FEW) for part in node.all_input_nodes
            }
            try:
                results.append(self.interpreter.node(node, read))
            except (Unstackable, RuntimeError, IndexError, ValueError):
                return None
        return results


def _live(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes that the output depends on, and the inputs, in order."""
    output = next(node for node in graph.nodes if node.op == "output")
    found, waiting = {output}, [output]
    while waiting:
        for part in waiting.pop().all_input_nodes:
            if part not in found:
                found.add(part)
                waiting.append(part)
    return [node for node in graph.nodes if node in found or node.op == "placeholder"]


class _Both(dict[fx.Node, Value]):
    """Values made now, and else those known before."""

    def __init__(self, made: Mapping[fx.Node, Value], known: Mapping[fx.Node, Value]) -> None:
        super().__init__()
        self.made, self.known = made, known

    def __getitem__(self, node: fx.Node) -> Value:
        return self.made[node] if node in self.made else self.known[node]


def _state(results: list[Value]) -> State:
    """Tell from the values at 0, a, b, a + b and -a how a value depends on what is unknown."""
    parts = [elements(one) for one in results]
    if len({len(one) for one in parts}) != 1 or any(
        len(one.tensors()) != len(part) for one, part in zip(results, parts, strict=True)
    ):
        return State.CURVED
    still = True
    for zero, a, b, both, minus in zip(*parts, strict=True):
        if not all(one.shape == zero.shape and bool(torch.isfinite(one).all()) for one in (zero, a, b, both, minus)):
            return State.CURVED
        size = max(float(one.abs().max()) for one in (zero, a, b, both, minus)) + 1e-30
        if float((both - a - b + zero).abs().max()) > 1e-9 * size or float((a + minus - 2 * zero).abs().max()) > 1e-9 * size:
            return State.CURVED
        still &= float((a - zero).abs().max()) <= 1e-11 * size and float((b - zero).abs().max()) <= 1e-11 * size
    return State.KNOWN if still else State.AFFINE
