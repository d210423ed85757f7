"""Places: which elements of two values are read at the same place of the same operands, where the values have other orders.

A pixel shuffle and a reshape put channels in other orders; what reads them next sees each at its place. So two values that
are read by operations with operands of one size are aligned there, element by element, and traced back.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, fx

from fxmap.capture.captured import Captured
from fxmap.matching.solve.source import Block, SourceValues, run
from fxmap.matching.solve.stacked import StackedInterpreter
from fxmap.matching.solve.systems import Point, Unknown
from fxmap.matching.solve.uses import NONE, Use, Uses
from fxmap.run.randomize import in_double


class Places:
    """Compares by what, and at which place, elements of the destination's and of the source's values are read."""

    def __init__(self, source: SourceValues, captured: Captured, inputs: list[Tensor]) -> None:
        self.source = source
        ours = {node: value.first(1) for node, value in source.values.items()}
        self.ours = Uses(StackedInterpreter(source.captured), ours)
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

    def assignments(
        self, point: Point, block: Block, fitting: Callable[[Unknown], Tensor]
    ) -> Iterator[list[tuple[Unknown, int]]]:
        """Yield the elements of a value of the source that are read at the places where those of a point are."""
        if block.part:
            return
        for use in self.theirs.of(point.node):
            for other in self.ours.of(block.node):
                if not _alike(use, other):
                    continue
                made = _traced(point, use.index.flatten(), other.index.flatten(), block.begin)
                if made and all(bool((fitting(system) == element).any()) for system, element in made):
                    yield made


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
