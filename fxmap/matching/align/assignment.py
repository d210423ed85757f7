"""Assignment: pair several ambiguous operations one to one, all together, at the least total cost.

Idea: within a block of operations of one kind and shape, each pair has a cost that counts neighbours that are matched to
other operations, static attributes that differ, the distance in the order of execution, and, last and least, names. The
Hungarian method finds the one-to-one assignment of the least sum.

>>> from fxmap.graph.opgraph import Op, OpGraph
>>> from fxmap.matching.align.view import view
>>> def side(*operations):
...     graph = OpGraph()
...     for name, attributes in operations:
...         graph.add(Op(name, "max_pool", attributes))
...     return view(graph)
>>> one, two = (("stride", 1),), (("stride", 2),)
>>> assign(PartialMatching(side(("a", one), ("b", two)), side(("x", two), ("y", one))), [0, 1], [0, 1], tied=True)
[(0, 1), (1, 0)]

Cost: O(n^3) for a block of n; blocks are small, since unique operations have been matched before.

Source: H. W. Kuhn, Naval Research Logistics 2 (1955) 83-97, doi:10.1002/nav.3800020109; D. F. Crouse, IEEE TAES 52 (2016)
1679-1696, doi:10.1109/TAES.2016.140952 (scipy's implementation).
"""

from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from fxmap.matching.align.partial_matching import PartialMatching
from fxmap.matching.align.signatures import own_attributes


@dataclass(frozen=True, slots=True)
class AssignmentWeights:
    """The cost of each kind of disagreement between two operations.

    Neighbours count most, then attributes, then order, and names least; tuned on `python -m benchmarks pairs`.
    """

    neighbour: float = 8.0  # times the share of neighbours that are not matched to one another: structure comes first
    attribute: float = 2.0  # static attributes, such as stride, that differ: more than the largest distance in the order
    position: float = 1.0  # times the distance in the order of execution, as a share of the whole graph
    name: float = 0.1  # times the unlikeness of the modules' names: breaks ties that structure leaves
    # Names are compared letter by letter, which is slow: only in blocks of at most so many pairs.
    names_compared: int = 2_500


_WEIGHTS = AssignmentWeights()


def assign(matching: PartialMatching, src: list[int], dst: list[int], *, tied: bool) -> list[tuple[int, int]]:
    """Pair the operations of a block. Unless they are known to be tied, a pair needs matched neighbours."""
    cost = np.zeros((len(src), len(dst)))
    support = np.zeros_like(cost)
    for row, s in enumerate(src):
        for column, d in enumerate(dst):
            support[row, column] = _support(matching, s, d)
            cost[row, column] = _WEIGHTS.neighbour * (1 - support[row, column]) + _unlikeness(matching, s, d)
            if cost.size <= _WEIGHTS.names_compared:
                names = matching.src.ops[s].module, matching.dst.ops[d].module
                cost[row, column] += _WEIGHTS.name * (1 - SequenceMatcher(None, *names).ratio())
    from scipy.optimize import linear_sum_assignment  # takes a third of a second to import, and few graphs need it

    rows, columns = linear_sum_assignment(cost)
    return [(src[row], dst[column]) for row, column in zip(rows, columns, strict=True) if tied or support[row, column] > 0]


def _support(matching: PartialMatching, s: int, d: int) -> float:
    """Return the share of the source operation's neighbours whose partners are neighbours of the other operation."""
    shared = total = 0
    for mine, other in (
        (matching.src.operands[s], matching.dst.operands[d]),
        (matching.src.users[s], matching.dst.users[d]),
    ):
        total += len(mine)
        shared += sum((argument, matching.forward.get(i)) in other for argument, i in mine)
    return shared / total if total else 0.0


def _unlikeness(matching: PartialMatching, s: int, d: int) -> float:
    attributes = own_attributes(matching.src.ops[s]) != own_attributes(matching.dst.ops[d])
    position = abs(s / len(matching.src) - d / len(matching.dst))
    return _WEIGHTS.attribute * attributes + _WEIGHTS.position * position
