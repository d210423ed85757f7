"""The frontier: how far the destination is known, and the first values that are not affine in what is unknown.

A value is known if no unknown weight changes it, and affine if it is an affine function of the unknown ones. Both are seen
by running with a few choices of these: at 0, at a, at b, at a + b, at -a, all in one run. The first operations that are
neither are the frontier; what they read must be solved for before the run can go on. A frontier is made from the one before
it: what does not depend on the weights that were found since is not run again.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import torch
from torch import Tensor, fx

from fxmap.capture.captured import Captured
from fxmap.matching.solve.known.source import SourceValues, TooLarge, elements
from fxmap.matching.solve.runs.stacked import StackedInterpreter, Unstackable, Value, Values
from fxmap.matching.solve.unknown.unknowns import Weights

# So many samples, and so many choices of what is unknown, decide whether a value is affine.
_FEW, _TRIED = 3, 5


class State(Enum):
    """What is known of a node's value."""

    KNOWN = auto()
    AFFINE = auto()
    CURVED = auto()  # the frontier
    BEHIND = auto()


@dataclass
class Frontier:
    """The state of every node, and the nodes of the frontier in the order of the graph.

    `values` are those of the known nodes; `tried` those of the affine ones, but for weights, for the few choices, and
    `based` where what is unknown is 0. `fresh` is how many numbers it holds that the frontier before it has not.
    """

    weights: Weights
    states: dict[fx.Node, State] = field(default_factory=dict)
    values: Values = field(default_factory=dict)
    tried: Values = field(default_factory=dict)
    based: Values = field(default_factory=dict)
    curved: list[fx.Node] = field(default_factory=list)
    fresh: int = 0

    def known(self) -> Values:
        """Return the values of the nodes that are known."""
        return {node: value for node, value in self.values.items() if self.states[node] is State.KNOWN}


def numbers(value: Value | None) -> int:
    """Return how many numbers a value has."""
    return 0 if value is None else sum(part.numel() for part in value.tensors())


class Advance:
    """Computes the frontier of a destination for given weights."""

    def __init__(self, captured: Captured, inputs: list[Tensor]) -> None:
        self.captured, self.inputs = captured, inputs
        self.nodes = _live(captured.graph)
        self.order = {node: index for index, node in enumerate(self.nodes)}
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

    def weight(self, path: str, weights: Weights) -> Tensor:
        """Return the tensor of a path; a copy, since the vector of all numbers is not to stay for one of them."""
        layout = weights.layout
        canonical = layout.canonical[path]
        if canonical not in layout.shapes:
            return layout.fixed[path]
        return layout.tensor(canonical, weights.numbers[layout.place(canonical)].clone())

    def __call__(self, weights: Weights, before: Frontier | None = None) -> Frontier:
        """Return the frontier; `before` is one for weights of which less was known.

        Raises:
            Unstackable: see `StackedInterpreter.node`.
        """
        found = Frontier(weights)
        open_paths = {path for path in weights.layout.shapes if weights.unknown(path)}
        changed = None if before is None else weights.changed(before.weights)
        choices = self._choices(weights)
        size = 0
        with torch.no_grad():
            for node in self.nodes:
                if node.op == "output":
                    continue
                if before is not None and changed is not None and not self.upstream[node] & changed:
                    _take(node, before, found)
                else:
                    self._advance(node, found, open_paths, choices)
                size += numbers(found.values.get(node)) + numbers(found.tried.get(node))
                if size > SourceValues.LIMIT:
                    raise TooLarge(f"the destination's values have more than {SourceValues.LIMIT} numbers")
        every = [*found.values.items(), *found.tried.items()]
        old = {} if before is None else {**before.values, **before.tried}
        found.fresh = sum(numbers(value) for node, value in every if node not in old)
        return found

    def _advance(self, node: fx.Node, found: Frontier, open_paths: set[str], choices: Tensor) -> None:
        """Tell the state of one node from the states of those that it reads."""
        states, weights = found.states, found.weights
        parts = [states[part] for part in node.all_input_nodes]
        if not self.upstream[node] & open_paths or (parts and all(part is State.KNOWN for part in parts)):
            states[node], found.values[node] = State.KNOWN, self._known(node, weights, found.values)
        elif node.op == "get_attr":
            states[node] = State.AFFINE
        elif State.CURVED in parts or State.BEHIND in parts:
            states[node] = State.BEHIND
        else:
            result = self._result(node, found, choices)
            states[node] = State.CURVED if result is None else _state(result)
            if states[node] is State.KNOWN:
                found.values[node] = self._based(node, found)
            elif states[node] is State.AFFINE:
                assert result is not None
                found.tried[node] = result
            else:
                found.curved.append(node)

    def _choices(self, weights: Weights) -> Tensor:
        """Return what the few choices of what is unknown are made of, `2 numbers`."""
        return torch.randn(2, weights.layout.size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def _tried(self, path: str, weights: Weights, choices: Tensor) -> Tensor:
        """Return the few choices of one weight, each once for each of the few samples."""
        place = weights.layout.place(weights.layout.canonical[path])
        a, b = choices[:, place]
        tried = torch.stack([torch.zeros_like(a), a, b, a + b, -a])
        numbers = torch.where(weights.known[place], weights.numbers[place], tried).repeat_interleave(_FEW, 0)
        return weights.layout.tensor(weights.layout.canonical[path], numbers)

    def _known(self, node: fx.Node, weights: Weights, values: Values) -> Value:
        if node.op == "placeholder":
            return Value(self.given.get(node), stacked=True)
        if node.op == "get_attr" and str(node.target) in self.captured.tensors:
            return Value(self.weight(str(node.target), weights), stacked=False)
        return self.interpreter.node(node, values)

    def _based(self, node: fx.Node, found: Frontier) -> Value:
        """Return the value of a node that reads unknown weights and does not depend on them."""
        for part in node.all_input_nodes:
            if part not in found.values and part not in found.based:
                found.based[part] = self._based(part, found)
        if node.op == "get_attr":
            return Value(self.weight(str(node.target), found.weights), stacked=False)
        return self.interpreter.node(node, _Both(found.based, found.values))

    def between(self, goal: fx.Node, values: Container[fx.Node]) -> list[fx.Node]:
        """Return what lies between the known values and a node, which is the last one, in the order of the graph."""
        waiting = [goal]
        needed: set[fx.Node] = set()
        while waiting:
            node = waiting.pop()
            if node not in needed and node not in values:
                needed.add(node)
                waiting += node.all_input_nodes
        return sorted(needed, key=self.order.__getitem__)

    def recomputed(
        self,
        goal: fx.Node,
        weights: Weights,
        values: Mapping[fx.Node, Value],
        leaves: Mapping[str, Value],
        between: Sequence[fx.Node] | None = None,
    ) -> Value:
        """Run what lies between the known values and a node, with the `leaves` in the place of weights, by path."""
        made: Values = {}
        both = _Both(made, values)
        for node in self.between(goal, values) if between is None else between:
            if node.op == "get_attr" and str(node.target) in self.captured.tensors:
                canonical = weights.layout.canonical[str(node.target)]
                own = leaves.get(canonical)
                made[node] = Value(self.weight(str(node.target), weights), stacked=False) if own is None else own
            else:
                made[node] = self.interpreter.node(node, both)
        return both[goal]

    def _read(self, part: fx.Node, found: Frontier, choices: Tensor) -> Value:
        """Return a value for the few choices; those of a weight, which are many times as large as it, are not kept."""
        if found.states[part] is State.KNOWN:
            return found.values[part].first(_FEW).repeated(_TRIED)
        if part in found.tried:
            return found.tried[part]
        return Value(self._tried(str(part.target), found.weights, choices), stacked=True)

    def _result(self, node: fx.Node, found: Frontier, choices: Tensor) -> Value | None:
        """Return the value of a node for the few choices and samples; None where it cannot be made of all at once."""
        read = {part: self._read(part, found, choices) for part in node.all_input_nodes}
        try:
            return self.interpreter.node(node, read)
        except (Unstackable, RuntimeError, IndexError, ValueError):
            return None


def _take(node: fx.Node, before: Frontier, found: Frontier) -> None:
    """Take over what was known of a node that depends on nothing new."""
    found.states[node] = before.states[node]
    for old, new in ((before.values, found.values), (before.tried, found.tried), (before.based, found.based)):
        if node in old:
            new[node] = old[node]
    if before.states[node] is State.CURVED:
        found.curved.append(node)


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


def _state(result: Value) -> State:
    """Tell from the values at 0, a, b, a + b and -a how a value depends on what is unknown."""
    parts = elements(result)
    if not result.stacked:
        return State.KNOWN
    if len(result.tensors()) != len(parts):
        return State.CURVED
    still = True
    for part in parts:
        if not bool(torch.isfinite(part).all()):
            return State.CURVED
        zero, a, b, both, minus = part.reshape(_TRIED, -1)
        size = float(part.abs().max()) + 1e-30
        if float((both - a - b + zero).abs().max()) > 1e-9 * size or float((a + minus - 2 * zero).abs().max()) > 1e-9 * size:
            return State.CURVED
        still &= float((a - zero).abs().max()) <= 1e-11 * size and float((b - zero).abs().max()) <= 1e-11 * size
    return State.KNOWN if still else State.AFFINE
