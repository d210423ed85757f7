"""A partial matching of two graphs, under construction: pairs found so far, and the propagation that extends them.

Idea: a pair of operations that correspond forces pairs among their neighbours. If both operations of a pair are read, at
the same argument, by exactly one free operation of some kind and shapes, those two readers correspond as well; and likewise
their operands. Every new pair is a new starting point, until no more pairs follow.

>>> from fxmap.graph.opgraph import Op, OpGraph
>>> from fxmap.matching.align.view import view
>>> def chain(*names):
...     graph = OpGraph()
...     for name, kind in zip(names, ("relu", "tanh", "exp")):
...         graph.add(Op(name, kind))
...     for producer, consumer in zip(names, names[1:]):
...         _ = graph.network.add_edge(producer, consumer, argument="input")
...     return view(graph)
>>> matching = PartialMatching(chain("a", "b", "c"), chain("x", "y", "z"))
>>> matching.pair([(0, 0)], Evidence.VALUES)
>>> matching.propagate()
>>> matching.forward
{0: 0, 1: 1, 2: 2}

Cost: linear in the edges of the paired operations. This is the forced-move rule of constraint propagation, applied to graph
matching: D. Conte, P. Foggia, C. Sansone, M. Vento, IJPRAI 18 (2004) 265-298, doi:10.1142/S0218001404003228
(survey).
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from fxmap.graph.opgraph import INPUT
from fxmap.matching.align.alignment import Evidence
from fxmap.matching.align.signatures import own_attributes
from fxmap.matching.align.view import View


@dataclass
class PartialMatching:
    """Pairs of operations found so far, by index, with the evidence for each.

    `forward` maps source to destination operations, `backward` the other way round.
    """

    src: View
    dst: View
    forward: dict[int, int] = field(default_factory=dict)
    backward: dict[int, int] = field(default_factory=dict)
    evidence: dict[int, Evidence] = field(default_factory=dict)
    _fresh: list[tuple[int, int]] = field(default_factory=list)

    def compatible(self, s: int, d: int) -> bool:
        """Whether two operations are of one kind, with tensors of the same shapes."""
        return self.src.kinds[s] == self.dst.kinds[d] and self.src.shapes[s] == self.dst.shapes[d]

    def pair(self, pairs: Iterable[tuple[int, int]], evidence: Evidence) -> None:
        """Match pairs of operations whose members are still free."""
        for s, d in pairs:
            if s not in self.forward and d not in self.backward:
                self.forward[s], self.backward[d], self.evidence[s] = d, s, evidence
                self._fresh.append((s, d))

    def replace(self, pairs: Iterable[tuple[int, int]], evidence: Evidence) -> None:
        """Match free operations of the source with others, which may have been matched before."""
        for s, d in pairs:
            former = self.backward.get(d)
            if former is not None:
                del self.forward[former], self.evidence[former]
            self.forward[s], self.backward[d], self.evidence[s] = d, s, evidence

    def propagate(self) -> None:
        """Match the neighbours of the pairs so far that are at the same argument and have no rival, until none are left.

        Consumers are matched before producers: an operation is identified by its inputs, and these decide if the two models
        use its value differently.
        """
        backward: list[tuple[int, int]] = []
        while self._fresh or backward:
            downstream = bool(self._fresh)
            s, d = self._fresh.pop() if downstream else backward.pop()
            # Many operations read the input; and at tensors of other shapes, the two networks diverge.
            if self.src.kinds[s] == INPUT or not self.compatible(s, d):
                continue
            if downstream:
                backward.append((s, d))
                self.pair(self._forced(self.src.users[s], self.dst.users[d]), Evidence.PROPAGATED)
            else:
                self.pair(self._forced(self.src.operands[s], self.dst.operands[d]), Evidence.PROPAGATED)

    def _forced(self, src: list[tuple[str, int]], dst: list[tuple[str, int]]) -> list[tuple[int, int]]:
        groups: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, (view, taken, neighbours) in enumerate(((self.src, self.forward, src), (self.dst, self.backward, dst))):
            for argument, i in neighbours:
                if i not in taken:
                    groups[argument, view.kinds[i], view.shapes[i]][side].append(i)
        forced = [(a[0], b[0]) for a, b in groups.values() if len(a) == len(b) == 1]
        return [(s, d) for s, d in forced if not self._better(s, [i for _, i in dst if i not in self.backward], d)]

    def _better(self, s: int, rivals: list[int], d: int) -> bool:
        """Whether a rival has the attributes of an operation, which its only partner at this argument has not.

        Two models may join windows of several sizes in another order.
        """
        own = own_attributes(self.src.ops[s])
        return own_attributes(self.dst.ops[d]) != own and any(
            own_attributes(self.dst.ops[other]) == own and self.compatible(s, other) for other in rivals
        )

    def unique(self, labels: Sequence[Sequence[Hashable]], evidence: Evidence) -> None:
        """Match free operations whose label occurs exactly once among the free operations of each side."""
        self.pair(((a[0], b[0]) for a, b in self.groups(labels).values() if len(a) == len(b) == 1), evidence)

    def groups(self, labels: Sequence[Sequence[Hashable]]) -> dict[Hashable, tuple[list[int], list[int]]]:
        """Group the free operations of both sides by label; groups with one side alone are left out."""
        groups: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, taken in enumerate((self.forward, self.backward)):
            for i, label in enumerate(labels[side]):
                if i not in taken:
                    groups[label][side].append(i)
        return {label: group for label, group in groups.items() if group[0] and group[1]}
