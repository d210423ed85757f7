"""Natural: of several solutions of a system, the one with the source's own numbers, however it is told."""

from bisect import bisect_right
from dataclasses import dataclass

from torch import Tensor

from fxmap.matching.solve.choosing.gauge import Gauge
from fxmap.matching.solve.choosing.signatures import Signatures
from fxmap.matching.solve.known.numbers import ABSENT
from fxmap.matching.solve.known.source import SourceValues
from fxmap.matching.solve.unknown.systems import Unknown
from fxmap.matching.solve.unknown.unknowns import Layout


@dataclass(frozen=True)
class Natural:
    """Finds the solutions that have the source's numbers: by what these are multiplied by, by the gauge, or by sums."""

    source: SourceValues
    gauge: Gauge
    signatures: Signatures
    layout: Layout

    def _split(self, system: Unknown, solved: Tensor) -> Tensor:
        """Split a number that is a sum of two of the source's, where two weights are multiplied by the same value."""
        columns, layout = system.equations.columns, self.layout
        solved = solved.clone()
        for index in (self.source.numbers.find(solved) == ABSENT).nonzero().flatten().tolist():
            same = (columns - columns[:, index : index + 1]).abs().amax(0) <= 1e-12 * columns[:, index].abs().max()
            twins = [other for other in same.nonzero().flatten().tolist() if other != index]
            if len(twins) != 1:
                continue
            entries = [int(system.entries[place]) for place in (index, twins[0])]
            found = self.source.numbers.split(float(solved[index] + solved[twins[0]]), layout.sizes(*entries))
            if found is not None:
                solved[index], solved[twins[0]] = found
        return solved

    def solution(self, system: Unknown, element: int, solved: Tensor) -> Tensor:
        """Return another solution of a system that has the source's own numbers, where there is one."""
        natural = self.signed(system, element)
        if natural is not None:
            return natural
        if not system.equations.dependent:
            return solved
        natural = self.gauge.solution(system, element)
        return self._split(system, solved if natural is None else natural)

    def signed(self, system: Unknown, element: int) -> Tensor | None:
        """Return the solution of a system that has the numbers of the source which are multiplied by the same."""
        return self.signatures.solution(system, element, self._paths(system), self.layout)

    def _paths(self, system: Unknown) -> list[str]:
        layout = self.layout
        begins = list(layout.begins.values())
        names = list(layout.begins)
        return [names[bisect_right(begins, entry) - 1] for entry in system.entries.tolist()]
