"""Assignment: what stays ambiguous is decided together, by the least total cost.

Within a block of operations of one kind and shape, the cost of a pair counts neighbours that are matched elsewhere, static
attributes, place in the order of execution, and names last and least. Solved exactly by scipy's Hungarian method,
O(n^3) for a block of n; blocks are small, since unique operations have been matched before.

Source: H. W. Kuhn, Naval Research Logistics 2 (1955) 83-97, doi:10.1002/nav.3800020109; D. F. Crouse, IEEE TAES 52 (2016)
1679-1696, doi:10.1109/TAES.2016.140952 (scipy's implementation).
"""

from difflib import SequenceMatcher

import numpy as np
from scipy.optimize import linear_sum_assignment

from fxmap.matching.align.matching import Matching
from fxmap.matching.align.signatures import own_attributes

NEIGHBOUR, ATTRIBUTE, POSITION, NAME = 8.0, 2.0, 1.0, 0.1


# Names are compared letter by letter, which is slow; they matter least, and only among a few.
_NAMES_COMPARED = 2_500


def assign(matching: Matching, src: list[int], dst: list[int], *, tied: bool) -> list[tuple[int, int]]:
    """Pair the operations of a block. Unless they are known to be tied, a pair needs a neighbour in common."""
    cost = np.zeros((len(src), len(dst)))
    support = np.zeros_like(cost)
    for row, s in enumerate(src):
        for column, d in enumerate(dst):
            support[row, column] = _support(matching, s, d)
            cost[row, column] = NEIGHBOUR * (1 - support[row, column]) + _unlikeness(matching, s, d)
            if cost.size <= _NAMES_COMPARED:
                names = matching.src.ops[s].module, matching.dst.ops[d].module
                cost[row, column] += NAME * (1 - SequenceMatcher(None, *names).ratio())
    rows, columns = linear_sum_assignment(cost)
    return [(src[row], dst[column]) for row, column in zip(rows, columns, strict=True) if tied or support[row, column] > 0]


def _support(matching: Matching, s: int, d: int) -> float:
    """Return the share of neighbours of the source operation that are matched to the same neighbour of the other."""
    shared = total = 0
    for mine, other in (
        (matching.src.operands[s], matching.dst.operands[d]),
        (matching.src.users[s], matching.dst.users[d]),
    ):
        total += len(mine)
        shared += sum((argument, matching.forward.get(i)) in other for argument, i in mine)
    return shared / total if total else 0.0


def _unlikeness(matching: Matching, s: int, d: int) -> float:
    attributes = own_attributes(matching.src.ops[s]) != own_attributes(matching.dst.ops[d])
    position = abs(s / len(matching.src) - d / len(matching.dst))
    return ATTRIBUTE * attributes + POSITION * position
