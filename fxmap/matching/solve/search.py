"""Search: from the inputs to the outputs, choose what each value of the destination is, and go back where nothing fits."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from fxmap.capture.captured import Captured
from fxmap.graph.kinds import Trait, has, kind_of
from fxmap.matching.solve.choosing.choices import Choices
from fxmap.matching.solve.choosing.fitting import Choice, Fitting
from fxmap.matching.solve.choosing.guesses import Guesses
from fxmap.matching.solve.choosing.places import Places
from fxmap.matching.solve.choosing.positions import HELD, Bounds, Holding, Position, Steps
from fxmap.matching.solve.choosing.readers import moves, reading
from fxmap.matching.solve.choosing.recent import Recent
from fxmap.matching.solve.known.source import Block, SourceValues, elements
from fxmap.matching.solve.runs.effort import Effort, OutOfEffort
from fxmap.matching.solve.runs.stacked import Unstackable, Value
from fxmap.matching.solve.unknown.frontier import Advance, Frontier, State
from fxmap.matching.solve.unknown.systems import Factorisations, Point, Systems
from fxmap.matching.solve.unknown.unknowns import Weights

logger = logging.getLogger(__name__)


# Of so many positions, the systems of a value are remembered.
_REMEMBERED = 8

# So many values are asked for one that is certain.
_ASKED = 6


class Search:
    """Searches for the weights of a destination, each within wider bounds; what one has computed serves the next."""

    def __init__(
        self, source: SourceValues, captured: Captured, inputs: list[Tensor], accept: Callable[[Weights], bool]
    ) -> None:
        self.source, self._accept = source, accept
        self.advance = Advance(captured, inputs)
        self.samples = len(inputs[0])
        self.fitting, self.guesses, self.factorisations = Fitting(source), Guesses(source), Factorisations()
        self.places = Places(source, captured, inputs)
        self.why, self.steps, self.effort = "", 0, Effort(float("inf"))
        self._met: dict[str, Position] = {}
        self.holding = Holding()
        self._points = Recent[fx.Node, list[tuple[Weights, Point]]](HELD)
        self._places: dict[fx.Node, Tensor] = {}

    def run(self, weights: Weights, bounds: Bounds, effort: Effort) -> Weights | None:
        """Return weights with which the destination gives the source's outputs, or None.

        Raises:
            OutOfEffort: there is none within the effort.
        """
        self.effort = self.advance.interpreter.effort = effort
        self.fitting.spend_on(effort)
        return self._go(weights, None, bounds, 0)

    def _go(self, weights: Weights, before: Frontier | None, bounds: Bounds, depth: int) -> Weights | None:
        position = self._met.setdefault(weights.print(), Position())
        if position.hopeless(bounds):
            return None
        self.steps += 1
        try:
            found = self._at_position(weights, position, before, bounds, depth)
        except OutOfEffort:
            position.steps = None
            raise
        if found is None:
            self.effort.straight = False
            position.failed.append(bounds)
        return found

    def _at_position(
        self, weights: Weights, position: Position, before: Frontier | None, bounds: Bounds, depth: int
    ) -> Weights | None:
        if bounds.strict and position.sound is False:
            return None
        if position.frontier is None:
            try:
                position.frontier = self.advance(weights, before)
            except (Unstackable, RuntimeError) as error:
                self.why = str(error)
                return None
            self.holding.add(position)
        frontier = position.frontier
        if position.sound is None:
            position.sound = before is None or self._sound(frontier, before)
        if bounds.strict and not position.sound:
            position.frontier = None
            return None
        if position.steps is None:
            position.steps = Steps(self._following(weights, frontier))
        for step in position.steps:
            if step is None:
                return weights if self._returns(frontier.known()) and self._accept(weights) else None
            natural = step.recognised and (bounds.unusual or not step.unusual)
            left = bounds.unrecognised - (not natural)
            if left < 0:
                continue
            logger.debug("%s%s%s", "  " * depth, step.what, "" if step.recognised else ", not recognised")
            found = self._go(step.weights(weights), frontier, replace(bounds, unrecognised=left), depth + 1)
            if found is not None:
                return found
        return None

    def _sound(self, frontier: Frontier, before: Frontier) -> bool:
        """Whether the values that are new, and that go on to what is unknown, are related to values of the source."""
        for node, value in frontier.values.items():
            if before.states[node] is State.KNOWN or frontier.states[node] is not State.KNOWN or not value.stacked:
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

    def _following(self, weights: Weights, frontier: Frontier) -> Iterator[Choice | None]:
        """Yield what the next unknown value may be; None where all are known."""
        if not frontier.curved:
            yield from self._outputs(frontier)
            return
        # What can be solved for comes before what must be guessed, and what is certain before what is not.
        fed = [part for node in frontier.curved for part in self._affine(frontier, node)[:1]]
        first: list[Choice] | None = None
        for part in list(dict.fromkeys(fed))[:_ASKED]:
            found = self._choices(frontier, part)
            if found and found[0].certain:
                yield from found
                return
            first = found if first is None else first
        if first is not None:
            yield from first
            return
        yield from self._guessed(weights, frontier, frontier.curved[0])

    def _outputs(self, frontier: Frontier) -> Iterator[Choice | None]:
        returned = self.advance.nodes[-1].all_input_nodes
        blocks = {id(node): [block for block in self.source.blocks if block.node is node] for node in self.source.outputs}
        for index, node in enumerate(returned):
            if frontier.states.get(node) is State.AFFINE:
                ours = self.source.outputs[index] if index < len(self.source.outputs) else None
                found = [] if ours is None else blocks[id(ours)]
                yield from self._at(frontier, node, found[0] if found else None)
                return
        yield None

    def _affine(self, frontier: Frontier, node: fx.Node) -> list[fx.Node]:
        """Return what a node reads that is affine in unknown weights, and depends on an input."""
        return [n for n in node.all_input_nodes if frontier.states[n] is State.AFFINE and n in self.advance.fed]

    def _choices(self, frontier: Frontier, node: fx.Node) -> list[Choice]:
        """Return the weights that values of the source give a value, or one that it is made of by a factor or a shift."""
        found: list[Choice] = []
        at: fx.Node | None = node
        while at is not None:
            found += self._at(frontier, at, None)
            if found and found[0].recognised and not found[0].unusual:
                break
            # Queries that are a constant times the source's may be the source's own before they are scaled.
            at = self._before(frontier, at)
        if not any(one.recognised for one in found):
            terms = [one for term in self._terms(frontier, node) for one in self._at(frontier, term, None)]
            found += [one for one in terms if one.recognised]
        found.sort(key=lambda one: one.rank)
        if not found:
            self.why = f"no value of the source fits {node.name}"
            logger.debug("    %s", self.why)
        return found

    def _terms(self, frontier: Frontier, node: fx.Node) -> list[fx.Node]:
        """Return the terms of a sum that are to be solved for, each of which may be a value of the source by itself."""
        while moves(node) and frontier.states[node.all_input_nodes[0]] is State.AFFINE:
            (node,) = node.all_input_nodes
        found = self._affine(frontier, node)
        return found if len(found) > 1 and has(kind_of(node), Trait.SUM) else []

    def _before(self, frontier: Frontier, node: fx.Node) -> fx.Node | None:
        """Return the value that another is made of alone, where more than elements are moved: of y - mean(y), that is y."""
        parts, still = {node}, True
        while parts and (still or len(parts) > 1):
            last = max(parts, key=self.advance.order.__getitem__)
            parts.remove(last)
            read = [part for part in last.all_input_nodes if frontier.states[part] is State.AFFINE]
            if any(part not in self.advance.fed for part in read):
                return None
            still = still and moves(last)
            parts |= set(read)
        return parts.pop() if parts else None

    def _at(self, frontier: Frontier, node: fx.Node, exact: Block | None) -> list[Choice]:
        point = self._point(frontier, node)
        if not point.systems:
            return []
        choices = Choices(self.source, self.fitting, frontier.weights, point, self.places)
        return choices.all() if exact is None else choices.exact(exact)

    def _point(self, frontier: Frontier, node: fx.Node) -> Point:
        """Return the systems of a value: those that were met where fewer weights that lead to it were known, if any."""
        before = self._points.get(node) or []
        for weights, point in reversed(before):
            if frontier.weights.extends(weights, self._leading(weights, node)):
                found = point.without(frontier.weights.known)
                if found is not None:
                    return found
        systems = Systems(self.advance, frontier, node, self.samples, self.factorisations)
        found = systems.point(systems.shape())
        last = [*before[1 - _REMEMBERED :], (frontier.weights, found)]
        size = sum(self.samples * len(point.systems) + 3 * len(weights.numbers) for weights, point in last)
        self._points.put(node, last, size)
        return found

    def _leading(self, weights: Weights, node: fx.Node) -> Tensor:
        """Return the places of the weights that lead to a value."""
        if node not in self._places:
            paths = sorted(self.advance.upstream[node] & weights.layout.shapes.keys())
            every = torch.arange(weights.layout.size)
            self._places[node] = torch.cat([every[:0], *(every[weights.layout.place(path)] for path in paths)])
        return self._places[node]

    def _open(self, weights: Weights, node: fx.Node) -> list[str]:
        """Return the weights that lead to a value and are not known."""
        return sorted(
            path for path in self.advance.upstream[node] if path in weights.layout.shapes and weights.unknown(path)
        )

    def _guessed(self, weights: Weights, frontier: Frontier, node: fx.Node) -> Iterator[Choice]:
        paths = self._open(weights, node)
        attributes = {
            weights.layout.canonical[str(n.target)]: n
            for n in self.advance.nodes
            if n.op == "get_attr" and str(n.target) in weights.layout.canonical
        }
        near = self._near(frontier, node)
        buffers = {path for path in paths if not isinstance(self.advance.captured.tensors[path], nn.Parameter)}
        bent = {path for path in paths if self._bent(weights, frontier, node, {path})}
        sizes = {path: weights.layout.place(path).stop - weights.layout.place(path).start for path in paths}
        # Where a product has several unknown factors, one is guessed with which the value is affine in all the others.
        alone = {path for path in paths if not self._bent(weights, frontier, node, set(paths) - {path})}
        helping = bent or alone or set(paths)
        for path in sorted(helping, key=lambda path: (path not in buffers, sizes[path])):
            yield from self.guesses.all(path, attributes[path], weights, near, bent=path in bent)
            if path in bent:
                return

    def _bent(self, weights: Weights, frontier: Frontier, node: fx.Node, paths: Collection[str]) -> bool:
        """Whether a value is not affine in some weights together."""
        layout, generator = weights.layout, torch.Generator().manual_seed(5)

        def drawn(path: str) -> Tensor:
            place = layout.place(path)
            random = torch.rand(place.stop - place.start, generator=generator, dtype=torch.float64) + 0.5
            return torch.where(weights.known[place], weights.numbers[place], random)

        fixed = {path: drawn(path) for path in sorted(self.advance.upstream[node] & layout.shapes.keys())}
        one, other = ({path: drawn(path) for path in sorted(paths)} for _ in range(2))
        results = []
        values = {n: v.first(2) for n, v in frontier.known().items()}
        for changed in (one, other, {path: (one[path] + other[path]) / 2 for path in one}):
            made = {**fixed, **changed}
            leaves = {path: Value(layout.tensor(path, numbers), stacked=False) for path, numbers in made.items()}
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
