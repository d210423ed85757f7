"""Places: which elements of two values are read at the same place of the same operands, where the values have other orders.

A pixel shuffle and a reshape put channels in other orders; what reads them next sees each at its place. So two values that
are read by operations with operands of one size are aligned there, element by element, and traced back.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, fx

from fxmap.capture.captured import Captured
from fxmap.matching.solve.choosing.factors import factors
from fxmap.matching.solve.choosing.readers import unlike_readers
from fxmap.matching.solve.known.source import Block, SourceValues, run
from fxmap.matching.solve.runs.stacked import StackedInterpreter
from fxmap.matching.solve.runs.uses import NONE, Use, Uses
from fxmap.matching.solve.unknown.systems import Point, Unknown
from fxmap.run.randomize import in_double

Assignment = list[tuple[Unknown, int]]


class Places:
    """Compares by what, and at which place, elements of the destination's and of the source's values are read."""

    def __init__(self, source: SourceValues, captured: Captured, inputs: list[Tensor]) -> None:
        self.source = source
        self.factors = factors(source.captured, captured)
        self.ours = source.uses
        tensors = {path: in_double(tensor.detach()) for path, tensor in captured.tensors.items()}
        self.theirs = Uses(StackedInterpreter(captured), run(captured, tensors, [tensor[:1] for tensor in inputs]))

    def unlike(self, node: fx.Node, assignment: list[tuple[Unknown, int]], block: Block) -> bool:
        """Whether some element of a value is read by other operations than the element of the source that it is."""
        theirs, ours = self.theirs.direct(node), self.ours.direct(block.node)
        if block.part or not theirs or not ours:
            return True
        alike = torch.zeros(len(assignment), dtype=torch.bool)
        one = torch.tensor([system.element for system, _ in assignment])
        other = torch.tensor([element - block.begin for _, element in assignment])
        for key, read in theirs.items():
            if key in ours and len(read) > int(one.max()) and len(ours[key]) > int(other.max()):
                alike |= read[one] & ours[key][other]
        return not bool(alike.all())

    def assignments(self, point: Point, block: Block, fitting: Callable[[Unknown], Tensor]) -> Iterator[Assignment]:
        """Yield the elements of a value of the source that are read at the places where those of a point are.

        Several operations may read different parts: first comes what all of them tell, each beside the one most like it.
        """
        if block.part:
            return
        theirs, ours = self.theirs.of(point.node), self.ours.of(block.node)
        found = [(use, other) for use in theirs for other in ours if _alike(use, other)]
        found.sort(key=lambda pair: unlike_readers(pair[0].reader, pair[1].reader))
        traced: list[tuple[Use, Use, Assignment]] = []
        for use, other in found:
            made = _traced(point, use.index.flatten(), other.index.flatten(), block.begin)
            if made and all(bool((fitting(system) == element).any()) for system, element in made):
                traced.append((use, other, made))
        joined = _joined(traced)
        if len(joined) > max((len(made) for *_, made in traced), default=0):
            yield joined
        yield from (made for *_, made in traced)


def _joined(traced: list[tuple[Use, Use, Assignment]]) -> Assignment:
    """Return what the uses tell together, each paired once, the most alike first."""
    met: set[int] = set()
    given: dict[int, tuple[Unknown, int]] = {}
    for use, other, made in traced:
        if id(use) in met or id(other) in met:
            continue
        met |= {id(use), id(other)}
        taken = {element for _, element in given.values()}
        given |= {
            system.element: (system, element)
            for system, element in made
            if system.element not in given and element not in taken
        }
    return sorted(given.values(), key=lambda pair: pair[0].element)


def _alike(use: Use, other: Use) -> bool:
    return (use.kind, use.operand, use.index.numel()) == (other.kind, other.operand, other.index.numel())


def _traced(point: Point, theirs: Tensor, ours: Tensor, begin: int) -> list[tuple[Unknown, int]]:
    """Pair the elements of a point's systems with those at the same places; those that are not read there are left out."""
    found = []
    for system in point.systems:
        where = (theirs == system.element).nonzero().flatten()
        if len(where):
            element = int(ours[where[0]])
            if element == NONE:
                return []
            found.append((system, begin + element))
    return found
