"""A matching under construction: anchors, and what follows from them by propagation."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from fxmap.graph.opgraph import INPUT
from fxmap.matching.align.view import View


@dataclass
class Matching:
    """Pairs of operations found so far, with the evidence for each."""

    src: View
    dst: View
    forward: dict[int, int] = field(default_factory=dict)
    backward: dict[int, int] = field(default_factory=dict)
    evidence: dict[int, str] = field(default_factory=dict)
    _fresh: list[tuple[int, int]] = field(default_factory=list)

    def compatible(self, s: int, d: int) -> bool:
        """Whether two operations are of one kind, with tensors of the same shapes."""
        return self.src.kinds[s] == self.dst.kinds[d] and self.src.shapes[s] == self.dst.shapes[d]

    def pair(self, pairs: Iterable[tuple[int, int]], evidence: str) -> None:
        """Match pairs of operations whose members are still free."""
        for s, d in pairs:
            if s not in self.forward and d not in self.backward:
                self.forward[s], self.backward[d], self.evidence[s] = d, s, evidence
                self._fresh.append((s, d))

    def replace(self, pairs: Iterable[tuple[int, int]], evidence: str) -> None:
        """Match free operations of the source with others, which may have been matched before."""
        for s, d in pairs:
            former = self.backward.get(d)
            if former is not None:
                del self.forward[former], self.evidence[former]
            self.forward[s], self.backward[d], self.evidence[s] = d, s, evidence

    def propagate(self) -> None:
        """Match what follows from the pairs so far: neighbours at the same argument that have no rival.

        Consumers come before producers: an operation is what it is by what it computes from, and where the two models
        disagree about what becomes of its value, its inputs decide.
        """
        backward: list[tuple[int, int]] = []
        while self._fresh or backward:
            downstream = bool(self._fresh)
            s, d = self._fresh.pop() if downstream else backward.pop()
            # Many things read the input; and a tensor of another shape is where two networks part.
            if self.src.kinds[s] == INPUT or not self.compatible(s, d):
                continue
            if downstream:
                backward.append((s, d))
                self.pair(self._forced(self.src.users[s], self.dst.users[d]), "propagated")
            else:
                self.pair(self._forced(self.src.operands[s], self.dst.operands[d]), "propagated")

    def _forced(self, src: list[tuple[str, int]], dst: list[tuple[str, int]]) -> list[tuple[int, int]]:
        groups: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, (view, taken, neighbours) in enumerate(((self.src, self.forward, src), (self.dst, self.backward, dst))):
            for argument, i in neighbours:
                if i not in taken:
                    groups[argument, view.kinds[i], view.shapes[i]][side].append(i)
        return [(a[0], b[0]) for a, b in groups.values() if len(a) == len(b) == 1]

    def unique(self, labels: Sequence[Sequence[Hashable]], evidence: str) -> None:
        """Match operations whose label occurs once on each side among those that are still free."""
        self.pair(((a[0], b[0]) for a, b in self.groups(labels).values() if len(a) == len(b) == 1), evidence)

    def groups(self, labels: Sequence[Sequence[Hashable]]) -> dict[Hashable, tuple[list[int], list[int]]]:
        """Group the free operations of both sides by label; groups with one side alone are left out."""
        groups: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, taken in enumerate((self.forward, self.backward)):
            for i, label in enumerate(labels[side]):
                if i not in taken:
                    groups[label][side].append(i)
        return {label: group for label, group in groups.items() if group[0] and group[1]}
