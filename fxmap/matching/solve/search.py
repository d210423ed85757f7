"""Search: from the inputs to the outputs, choose what each value of the destination is, and go back where nothing fits."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from fxmap.capture.captured import Captured
from fxmap.matching.solve.choices import Choice, Choices, Fitting
from fxmap.matching.solve.frontier import Advance, Frontier, State
from fxmap.matching.solve.guesses import Guesses
from fxmap.matching.solve.readers import moves, reading
from fxmap.matching.solve.source import Block, SourceValues, elements
from fxmap.matching.solve.stacked import Unstackable, Value
from fxmap.matching.solve.systems import Systems
from fxmap.matching.solve.unknowns import Weights

logger = logging.getLogger(__name__)


class OutOfTime(Exception):
    """The time of a search is over."""


@dataclass(frozen=True)
class Stop:
    """When a search ends: a time of `time.process_time`, and how many choices may have numbers that are not the source's."""

    at: float
    unrecognised: int
    strict: bool = True


@dataclass(frozen=True)
class Step:
    """One more thing that is known, whether its numbers are the source's, and what it is."""

    weights: Weights
    recognised: bool
    what: str


class Search:
    """One search for the weights of a destination."""

    def __init__(
        self, source: SourceValues, captured: Captured, inputs: list[Tensor], stop: Stop, accept: Callable[[Weights], bool]
    ) -> None:
        self.source, self.stop, self._accept = source, stop, accept
        self.advance = Advance(captured, inputs)
        self.samples = len(inputs[0])
        self.fitting, self.guesses = Fitting(source), Guesses(source)
        self.why = ""
        self.steps = 0

    def run(self, weights: Weights) -> Weights | None:
        """Return weights with which the destination gives the source's outputs, or None."""
        return self._go(weights, {}, 0)

    def _go(self, weights: Weights, cached: Mapping[fx.Node, Value], unrecognised: int, depth: int = 0) -> Weights | None:
        self.steps += 1
        if time.process_time() > self.stop.at:
            raise OutOfTime(self.why)
        try:
            frontier = self.advance(weights, cached)
        except (Unstackable, RuntimeError) as error:
            self.why = str(error)
            return None
        if cached and not self._sound(frontier, cached):
            return None
        values = {node: value for node, value in frontier.values.items() if frontier.states[node] is State.KNOWN}
        for step in self._following(weights, frontier):
            if step.weights is weights:
                return weights if self._returns(values) and self._accept(weights) else None
            count = unrecognised + (not step.recognised)
            if count > self.stop.unrecognised:
                continue
            logger.debug("%s%s%s", "  " * depth, step.what, "" if step.recognised else ", not recognised")
            found = self._go(step.weights, values, count, depth + 1)
            if found is not None:
                return found
        return None

    def _sound(self, frontier: Frontier, before: Mapping[fx.Node, Value]) -> bool:
        """Whether the values that are new, and that go on to what is unknown, are related to values of the source."""
        if not self.stop.strict:
            return True
        for node, value in frontier.values.items():
            if node in before or frontier.states[node] is not State.KNOWN or not value.stacked:
                continue
            if not any(frontier.states.get(user) is not State.KNOWN for user in node.users if user.op != "output"):
                continue
            for part in elements(value):
                flat = part.reshape(len(part), -1)
                if not bool(self.source.prints.related(flat).all()):
                    self.why = f"no value of the source is {node.name}"
                    logger.debug("    %s", self.why)
                    return False
        return True

    def _returns(self, values: Mapping[fx.Node, Value]) -> bool:
        """Whether the destination returns what the source does."""
        ours = [block for node in self.source.outputs for block in self.source.blocks if block.node is node]
        theirs = [
            part for node in self.advance.nodes[-1].all_input_nodes if node in values for part in elements(values[node])
        ]
        if len(ours) != len(theirs):
            self.why = "another number of outputs"
            return False
        for block, value in zip(ours, theirs, strict=True):
            wanted, flat = self.source.columns[:, block.begin : block.stop], value.reshape(len(value), -1)
            if wanted.shape != flat.shape or float((wanted - flat).abs().max()) > 1e-8 * float(wanted.abs().max()):
                self.why = "the outputs differ"
                return False
        return True

    def _following(self, weights: Weights, frontier: Frontier) -> Iterator[Step]:
        if not frontier.curved:
            yield from self._outputs(weights, frontier)
            return
        for node in frontier.curved[:1]:
            affine = [part for part in node.all_input_nodes if frontier.states[part] is State.AFFINE]
            fed = [part for part in affine if part in self.advance.fed]
            if fed:
                yield from self._choices(weights, frontier, fed[0])
            else:
                yield from self._guessed(weights, frontier, node)

    def _outputs(self, weights: Weights, frontier: Frontier) -> Iterator[Step]:
        returned = self.advance.nodes[-1].all_input_nodes
        blocks = {id(node): [block for block in self.source.blocks if block.node is node] for node in self.source.outputs}
        for index, node in enumerate(returned):
            if frontier.states.get(node) is State.AFFINE:
                ours = self.source.outputs[index] if index < len(self.source.outputs) else None
                found = [] if ours is None else blocks[id(ours)]
                for choice in self._at(weights, frontier, node, found[0] if found else None):
                    yield Step(choice.weights, choice.recognised, choice.what)
                return
        yield Step(weights, True, "")

    def _choices(self, weights: Weights, frontier: Frontier, node: fx.Node) -> Iterator[Step]:
        """Yield the weights that values of the source give a value, or one that it is made of by a factor or a shift."""
        found: list[Choice] = []
        at: fx.Node | None = node
        while at is not None:
            found += self._at(weights, frontier, at, None)
            if found and found[0].recognised:
                break
            at = self._before(frontier, at)
        found.sort(key=lambda one: one.rank)
        if not found:
            self.why = f"no value of the source fits {node.name}"
            logger.debug("    %s", self.why)
        for choice in found:
            yield Step(choice.weights, choice.recognised, choice.what)

    def _before(self, frontier: Frontier, node: fx.Node) -> fx.Node | None:
        """Return the value that another is made of alone, where more than elements are moved."""
        while True:
            parts = [part for part in node.all_input_nodes if frontier.states[part] is State.AFFINE]
            if len(parts) != 1 or parts[0] not in self.advance.fed:
                return None
            if not moves(node):
                return parts[0]
            (node,) = parts

    def _at(self, weights: Weights, frontier: Frontier, node: fx.Node, exact: Block | None) -> list[Choice]:
        systems = Systems(self.advance, weights, frontier, node, self.samples)
        parts = elements(self.advance.recomputed(node, weights, systems._values(1), {}))
        shape = tuple(parts[0].shape[1:]) if len(parts) == 1 else (systems.value.shape[1],)
        point = systems.point(shape)
        if not point.systems:
            return []
        choices = Choices(self.source, self.fitting, weights, point)
        return choices.all() if exact is None else choices.exact(exact)

    def _guessed(self, weights: Weights, frontier: Frontier, node: fx.Node) -> Iterator[Step]:
        paths = sorted(
            path for path in self.advance.upstream[node] if path in weights.layout.shapes and weights.unknown(path)
        )
        attributes = {
            weights.layout.canonical[str(n.target)]: n
            for n in self.advance.nodes
            if n.op == "get_attr" and str(n.target) in weights.layout.canonical
        }
        near = self._near(frontier, node)
        buffers = {path for path in paths if not isinstance(self.advance.captured.tensors[path], nn.Parameter)}
        bent = {path for path in paths if self._bent(weights, frontier, node, path)}
        for path in sorted(paths, key=lambda path: (path not in bent, path not in buffers)):
            for guessed in self.guesses.all(path, attributes[path], weights, near):
                yield Step(guessed, True, path)
            if path in bent:
                return

    def _bent(self, weights: Weights, frontier: Frontier, node: fx.Node, path: str) -> bool:
        """Whether a value is not affine in one weight alone."""
        place = weights.layout.place(path)
        generator = torch.Generator().manual_seed(5)
        others = torch.rand(len(weights.numbers), generator=generator, dtype=torch.float64) + 0.5
        fixed = torch.where(weights.known, weights.numbers, others)
        drawn = [torch.rand(place.stop - place.start, generator=generator, dtype=torch.float64) + 0.5 for _ in range(2)]
        results = []
        values = {n: v.first(2) for n, v in frontier.values.items() if frontier.states[n] is State.KNOWN}
        for numbers in (drawn[0], drawn[1], (drawn[0] + drawn[1]) / 2):
            tried = fixed.clone()
            tried[place] = numbers
            leaves = {
                p: Value(weights.layout.tensor(p, tried[weights.layout.place(p)]), stacked=False)
                for p in weights.layout.shapes
            }
            with torch.no_grad():
                value = self.advance.recomputed(node, weights, values, leaves)
            results.append([t.double() for t in value.tensors()])
        return any(
            float((a + b - 2 * c).abs().max()) > 1e-9 * float(c.abs().max()) for a, b, c in zip(*results, strict=True)
        )

    def _near(self, frontier: Frontier, node: fx.Node) -> frozenset[str]:
        """Return the source's tensors that are read by an operation which reads what this one, or one behind it, reads."""
        found: set[str] = set()
        for user in [node, *reading(node)]:
            for part in user.all_input_nodes:
                value = frontier.values.get(part)
                if value is not None and value.stacked and frontier.states[part] is State.KNOWN:
                    for block in self._equal(value):
                        for reader in reading(block.node):
                            found |= _weights_of(reader)
        names = self.source.captured.canonical
        return frozenset(names[path] for path in found if path in names)

    def _equal(self, value: Value) -> list[Block]:
        parts = elements(value)
        if not parts:
            return []
        first = parts[0]
        element = first.reshape(len(first), -1)[:, :1]
        same = (self.source.columns - element).abs().amax(0) <= 1e-8 * element.abs().max()
        places = same.nonzero().flatten().tolist()
        return [block for block in self.source.blocks if any(block.begin <= place < block.stop for place in places)]


def _weights_of(node: fx.Node) -> set[str]:
    """Return the paths of the stored tensors among what a node reads, also through operations on weights alone."""
    found: set[str] = set()
    for part in node.all_input_nodes:
        if part.op == "get_attr":
            found.add(str(part.target))
        elif part.op == "call_function" and moves(part):
            found |= _weights_of(part)
    return found
