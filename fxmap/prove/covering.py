"""Covering arrays of strength two: few rows in which every pair of values of two options occurs.

Most faults of options in combination show with two of them, whatever the others are. Options one by one leave all of these
out, and all combinations are too many: a covering array has every pair in about as many rows as the product of the two
longest lists of values. Value 0 of an option is the one of the example, so pairs with it have been met one by one.

>>> rows = []
>>> for _ in covering([1, 2, 1], lambda row: rows.append(row) or True):
...     pass
>>> rows
[(1, 1, 1), (1, 2, 1)]

What does not go together is refused as a whole row. Then each of its pairs is tried with all other options as given.

>>> rows = []
>>> for _ in covering([1, 1, 1], lambda row: rows.append(row) or sum(row) < 3):
...     pass
>>> rows
[(1, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)]

Cost: at most one row for each pair and one more; choosing a row is quadratic in the options.
Source: Cohen, Dalal, Fredman and Patton, The AETG system, 1997, doi:10.1109/32.605761; Kuhn, Wallace and Gallo, Software
fault interactions, 2004, doi:10.1109/TSE.2004.24.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from random import Random

Row = tuple[int, ...]
# Two options, each with one of its values.
_Pair = tuple[tuple[int, int], tuple[int, int]]
# How many rows are made before one is chosen.
_CANDIDATES = 20


def covering(counts: Sequence[int], accepts: Callable[[Row], bool]) -> Iterator[Row]:
    """Yield the rows that `accepts` was asked about, up to where every pair of other values was in a row or refused.

    Args:
        counts: how many other values each option has, beside the one of the example.
        accepts: runs a row, and says whether it could be run.
    """
    waiting = {
        ((i, one), (j, other)): None
        for i, j in combinations(range(len(counts)), 2)
        for one, other in product(range(1, counts[i] + 1), range(1, counts[j] + 1))
    }
    whole, chance = True, Random(0)
    while waiting:
        first = next(iter(waiting))
        row = _with_others(first, counts, waiting, chance) if whole else _alone(first, len(counts))
        if accepts(row):
            for pair in _pairs(row):
                waiting.pop(pair, None)
        elif row == _alone(first, len(counts)):
            del waiting[first]
        else:
            whole = False
        yield row


def _alone(pair: _Pair, count: int) -> Row:
    return tuple(dict(pair).get(i, 0) for i in range(count))


def _with_others(first: _Pair, counts: Sequence[int], waiting: dict[_Pair, None], chance: Random) -> Row:
    """Return the row with a pair, of some that are made, in which most pairs occur that wait."""
    free = [i for i in range(len(counts)) if i not in dict(first)]
    orders = [free, *(chance.sample(free, len(free)) for _ in range(_CANDIDATES if max(counts) > 1 else 0))]
    rows = [_filled(dict(first), order, counts, waiting) for order in orders]
    return max(rows, key=lambda row: sum(pair in waiting for pair in _pairs(row)))


def _filled(row: dict[int, int], order: Sequence[int], counts: Sequence[int], waiting: dict[_Pair, None]) -> Row:
    """Give one option after the other the value with the most pairs that wait, or none where no pair does."""
    for i in order:
        news = [sum(_ordered((i, value), item) in waiting for item in row.items()) for value in range(1, counts[i] + 1)]
        best = max(range(len(news)), key=news.__getitem__, default=0)
        if news and news[best]:
            row[i] = best + 1
    return tuple(row.get(i, 0) for i in range(len(counts)))


def _pairs(row: Row) -> Iterator[_Pair]:
    yield from combinations([(i, value) for i, value in enumerate(row) if value], 2)


def _ordered(one: tuple[int, int], other: tuple[int, int]) -> _Pair:
    return (one, other) if one < other else (other, one)
