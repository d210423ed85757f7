"""Express: the expressions of solved weights, and a check of them on weights that were drawn anew."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, fx

from fxmap.capture.captured import Captured
from fxmap.expressions.arithmetic import Full, Scaled, Sum
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.computed import Computed
from fxmap.graph.index_maps import ZERO as NOTHING
from fxmap.graph.index_maps import Numbering
from fxmap.matching.solve.expressing.arrange import arranged
from fxmap.matching.solve.known.numbers import ABSENT, ONE, ZERO
from fxmap.matching.solve.known.programs import NotAProgram, computed, stretch
from fxmap.matching.solve.known.source import Block, SourceValues, run
from fxmap.matching.solve.unknown.unknowns import Origin, Weights

logger = logging.getLogger(__name__)

# A view of a complex tensor as real numbers, and back.
_AS_REAL = '[["aten.view_as_real.default", [{"value": 0}], {}]]'
_AS_COMPLEX = '[["aten.view_as_complex.default", [{"value": 0}], {}]]'


class Expressions:
    """Makes the expressions of the weights that a search found."""

    def __init__(self, source: SourceValues, weights: Weights) -> None:
        self.source, self.weights = source, weights
        self.shapes = dict(source.numbers.shapes)
        self.nodes = {node.name: node for node in source.nodes}
        self.stretches: dict[str, Expression] = {}
        self.places = weights.places.clone()
        self.reasons: dict[str, str] = {}
        self._add_stretches()
        self.numbering = Numbering(self.shapes)

    def all(self) -> dict[str, Expression]:
        """Return an expression for every weight that has one, by path."""
        found = {}
        for path in self.weights.layout.shapes:
            made = self._made(path)
            if made is not None:
                found[path] = made
        return found

    def _made(self, path: str) -> Expression | None:
        layout = self.weights.layout
        place = layout.place(path)
        known, places = self.weights.known[place], self.places[place].reshape(layout.shapes[path])
        if not bool(known.any()) or bool((places[known.reshape(places.shape)] == ABSENT).any()):
            return None
        if not bool(known.all()):
            extended = self._extended(known.reshape(places.shape), places)
            if extended is None:
                return None
            places = extended
        if bool((places == ONE).all()):
            return Full(layout.shapes[path], 1.0, self._leaf(self.source.numbers.names[0]))
        if bool((places == ONE).any()):
            return None
        numbers = torch.where(places == ZERO, NOTHING, places)
        try:
            made = arranged(numbers, self.numbering, self._leaf)
        except NotAProgram as error:
            logger.info("%s cannot be written: %s", path, error)
            return None
        return Computed((made,), _AS_COMPLEX) if path in layout.complex_ else made

    def _extended(self, known: Tensor, places: Tensor) -> Tensor | None:
        """Return the places of all numbers of a weight from those that are known, where these follow one rule."""
        where = known.nonzero()
        found = places[known]
        total = len(self.source.numbers.numbers)  # what lies beyond is of a stretch, of which no rule is known
        if bool(((found < 0) | (found >= total)).any()):
            return None
        owners = {self.source.numbers.owner(one) for one in found[:: max(1, len(found) // 8)].tolist()}
        if len(owners) > 1:
            return None
        matrix = torch.cat([where.double(), torch.ones(len(where), 1).double()], 1)
        rule = torch.linalg.lstsq(matrix, found.double()[:, None]).solution.flatten()
        every = torch.cartesian_prod(*[torch.arange(extent) for extent in places.shape]).reshape(-1, places.dim()).double()
        guessed = torch.cat([every, torch.ones(len(every), 1).double()], 1) @ rule
        whole = guessed.round()
        name = self.source.numbers.owner(int(found[0]))
        begin = int(self.source.numbers.begins[self.source.numbers.names.index(name)])
        size = int(torch.Size(self.source.numbers.shapes[name]).numel())
        inside = bool(((whole >= begin) & (whole < begin + size)).all())
        result = whole.long().reshape(places.shape)
        right = bool(((guessed - whole).abs() < 1e-3).all()) and torch.equal(result[known], found)
        return result if inside and right else None

    def _leaf(self, name: str) -> Expression:
        if name in self.stretches:
            return self.stretches[name]
        if name in self.source.numbers.sums:
            return Sum(tuple(map(self._leaf, self.source.numbers.sums[name])))
        if name in self.source.numbers.multiples:
            of, factor = self.source.numbers.multiples[name]
            return Scaled(self._leaf(of), factor)
        if name.startswith("%"):
            return computed(self.source, self.nodes[name[1:]])
        return Computed((Source(name),), _AS_REAL) if self.source.tensors[name].is_complex() else Source(name)

    # -- what is no number of the source ----------------------------------------------------------------------------------

    def _add_stretches(self) -> None:
        """Add the matrices of the stretches that make numbers which are not the source's."""
        groups: dict[tuple[str, ...], list[tuple[Origin, Block, list[int]]]] = {}
        for origin in self.weights.origins:
            block = self.source.block(origin.element)
            inputs = self.source.find(origin.columns)
            if inputs is None:
                logger.info("%s: what its weight multiplies is no value of the source", block.node.name)
                continue
            blocks = {self.source.block(one).node.name for one in inputs if one >= 0}
            groups.setdefault((block.node.name, *sorted(blocks)), []).append((origin, block, inputs))
        for (goal, *names), members in groups.items():
            try:
                self._add_stretch(self.nodes[goal], [self.nodes[name] for name in names], members)
            except NotAProgram as error:
                logger.info("the stretch to %s cannot be written: %s", goal, error)

    def _add_stretch(self, goal: fx.Node, inputs: list[fx.Node], members: list[tuple[Origin, Block, list[int]]]) -> None:
        begins, begin = {}, 0
        for node in inputs:
            begins[node] = begin
            begin += int(self.source.values[node].data[0].numel())
        flat = {one: -1 for _, _, found in members for one in found}
        for one in flat:
            if one >= 0:
                flat[one] = begins[self.source.block(one).node] + one - self.source.block(one).begin
        probes = sorted({one for one in flat.values() if one >= 0})
        read = sorted({origin.element - block.begin for origin, block, _ in members})
        expression = stretch(self.source, inputs, goal, probes, read)
        name = f"~{len(self.stretches)}"
        begin = sum(int(torch.Size(shape).numel()) for shape in self.shapes.values())
        self.shapes[name] = (len(probes) + 1, len(read))
        self.stretches[name] = expression
        for origin, block, found in members:
            column = read.index(origin.element - block.begin)
            for entry, one in zip(origin.entries.tolist(), found, strict=True):
                row = probes.index(flat[one]) if one >= 0 else len(probes)
                if self.places[entry] == ABSENT:
                    self.places[entry] = begin + row * len(read) + column


def agree(
    expressions: Mapping[str, Expression],
    networks: tuple[Captured, Captured],
    tensors: Mapping[str, Tensor],
    inputs: tuple[list[Tensor], list[Tensor]],
) -> bool:
    """Whether the destination returns what the source does, with weights made of other weights of the source."""
    src, dst = networks
    made = {path: expression.evaluate(tensors) for path, expression in expressions.items()}
    theirs = {}
    for path, tensor in dst.tensors.items():
        canonical = dst.canonical[path]
        own = tensor.detach()
        own = own.double() if own.is_floating_point() else own.to(torch.complex128) if own.is_complex() else own
        theirs[path] = made.get(canonical, own)
        if theirs[path].shape != tensor.shape:
            return False
    outputs = []
    for network, values, given in ((src, tensors, inputs[0]), (dst, theirs, inputs[1])):
        found = run(network, values, given)
        returned = next(node for node in network.graph.nodes if node.op == "output").all_input_nodes
        outputs.append([part for node in returned for part in found[node].tensors()])
    ours, others = outputs
    return len(ours) == len(others) and all(
        a.shape == b.shape and float((a - b).abs().max()) <= 1e-8 * float(a.abs().max().clamp_min(1e-30))
        for a, b in zip(ours, others, strict=True)
        if a.is_floating_point()
    )
