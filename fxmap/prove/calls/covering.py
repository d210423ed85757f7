"""Covering arrays of strength two: few rows in which every pair of values of two factors occurs.

Most faults of options in combination show with two of them, whatever the others are. Options one by one leave all of these
out, and all combinations are too many: a covering array has every pair in about as many rows as the product of the two
longest lists of values. Value 0 of a factor is the one of the example, so pairs with it have been met one by one.

>>> rows = []
>>> for _ in covering([1, 2, 1], lambda row: rows.append(row) or True):
...     pass
>>> rows
[(1, 1, 1), (1, 2, 1)]

What does not go together is refused as a whole row. Then each of its pairs is tried with all other factors as given.

>>> rows = []
>>> for _ in covering([1, 1, 1], lambda row: rows.append(row) or sum(row) < 3):
...     pass
>>> rows
[(1, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)]

A factor may be there under a value of another one alone, as the length of a tensor that can be left out.

>>> rows = []
>>> for _ in covering([1, 1, 2], lambda row: rows.append(row) or True, under={2: (1, 1)}):
...     pass
>>> rows
[(1, 1, 1), (1, 1, 2)]

A value may hide the effect of others, as a length of 1 hides that of a window: a row with such a value shows nothing of the
pairs without one, and these are in other rows.

>>> rows = []
>>> for _ in covering([1, 1, 1], lambda row: rows.append(row) or True, veils={(0, 1): 1}):
...     pass
>>> rows
[(1, 1, 1), (0, 1, 1)]

Cost: at most one row for each pair and one more; choosing a row is quadratic in the factors.
Source: Cohen, Dalal, Fredman and Patton, The AETG system, 1997, doi:10.1109/32.605761; Kuhn, Wallace and Gallo, Software
fault interactions, 2004, doi:10.1109/TSE.2004.24.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from random import Random

Row = tuple[int, ...]
# A factor, and one of its values.
Level = tuple[int, int]
_Pair = tuple[Level, Level]
# How many rows are made before one is chosen.
_CANDIDATES = 20
_NOTHING: Mapping[int, Level] = {}
_CLEAR: Mapping[Level, int] = {}


def covering(
    counts: Sequence[int],
    accepts: Callable[[Row], bool],
    *,
    under: Mapping[int, Level] = _NOTHING,
    apart: Container[int] = (),
    veils: Mapping[Level, int] = _CLEAR,
    candidates: int = _CANDIDATES,
    singles: bool = False,
) -> Iterator[tuple[int, int]]:
    """Ask `accepts` about rows, up to where every pair of other values was in a row or refused.

    Args:
        counts: how many other values each factor has, beside the one of the example.
        accepts: runs a row, and says whether it could be run.
        under: for a factor that is there under a value of another one alone, this factor and its value.
        apart: factors of which no two are asked for together.
        veils: how much a value hides of others, if it does: in a row, pairs are met of which a value hides as much as any.
        candidates: how many rows are made before one is chosen.
        singles: whether each value is run by itself first; one that is refused then is in no row.

    Yields:
        After each row, how many pairs have been met, and how many wait.
    """
    array = _Array(counts, under, apart, veils)
    for level in array.levels() if singles else ():
        if level[0] in under and under[level[0]] not in array.known:
            continue
        if not accepts(array.row((level,))):
            array.drop(level)
        else:
            array.known.add(level)
        yield array.met, len(array.waiting)
    chance = Random(0)
    while array.waiting:
        first = next(iter(array.waiting))
        alone = array.row(first)
        row = alone if first in array.doubted else array.with_others(first, chance, candidates)
        array.note(row, accepts(row), first if row == alone else None)
        yield array.met, len(array.waiting)


@dataclass
class _Array:
    """The pairs that wait, in the order in which they are asked for, and those that stood in a refused row."""

    counts: Sequence[int]
    under: Mapping[int, Level]
    apart: Container[int]
    veils: Mapping[Level, int]
    waiting: dict[_Pair, None] = field(init=False)
    doubted: set[_Pair] = field(default_factory=set)
    known: set[Level] = field(default_factory=set)
    dropped: set[Level] = field(default_factory=set)
    met: int = 0

    def __post_init__(self) -> None:
        self.waiting = {
            pair: None
            for i, j in combinations(range(len(self.counts)), 2)
            if not (i in self.apart and j in self.apart)
            for pair in product(self._of(i), self._of(j))
            if self._goes_together(pair)
        }

    def levels(self) -> Iterator[Level]:
        """Yield all values of all factors, those under others behind these."""
        for i in sorted(range(len(self.counts)), key=lambda i: i in self.under):
            yield from self._of(i)

    def _of(self, factor: int) -> Iterator[Level]:
        return ((factor, value) for value in range(1, self.counts[factor] + 1))

    def _goes_together(self, pair: _Pair) -> bool:
        chosen: dict[int, int] = {}
        needed = [self.under[level[0]] for level in pair if level[0] in self.under]
        return all(chosen.setdefault(factor, value) == value for factor, value in (*pair, *needed))

    def row(self, levels: Sequence[Level]) -> Row:
        """Return the row with some values, what they are under, and all others as given."""
        chosen = dict([*(self.under[factor] for factor, _ in levels if factor in self.under), *levels])
        return tuple(chosen.get(i, 0) for i in range(len(self.counts)))

    def _veil(self, levels: Iterable[Level]) -> int:
        return max((self.veils.get(level, 0) for level in levels), default=0)

    def _met(self, row: Row) -> list[_Pair]:
        """Return the pairs that wait and that a row shows."""
        items = [(i, value) for i, value in enumerate(row) if value]
        veil = self._veil(items)
        return [pair for pair in combinations(items, 2) if pair in self.waiting and self._veil(pair) == veil]

    def drop(self, level: Level) -> None:
        """Leave out a value in all rows, and those under it."""
        self.dropped.add(level)
        gone = {level, *(one for factor, its in self.under.items() if its == level for one in self._of(factor))}
        self.waiting = {pair: None for pair in self.waiting if gone.isdisjoint(pair)}

    def note(self, row: Row, accepted: bool, alone: _Pair | None) -> None:
        """Note a row that was run or refused; `alone` is the pair that is all of it, if there is one."""
        pairs = self._met(row)
        if accepted:
            self.met += len(pairs)
            self.doubted.difference_update(pairs)
        elif alone is None:
            self.doubted.update(pairs)
        for pair in pairs if accepted else [alone] if alone is not None else []:
            self.waiting.pop(pair, None)

    def with_others(self, first: _Pair, chance: Random, candidates: int) -> Row:
        """Return the row with a pair, of some that are made, in which most pairs occur that wait."""
        start = {factor: value for factor, value in enumerate(self.row(first)) if value}
        free = [i for i in range(len(self.counts)) if i not in start]
        orders = [free, *(chance.sample(free, len(free)) for _ in range(candidates if max(self.counts) > 1 else 0))]
        rows = [self._filled(dict(start), order, self._veil(first)) for order in orders]
        return max(rows, key=lambda row: len(self._met(row)))

    def _filled(self, row: dict[int, int], order: Sequence[int], veil: int) -> Row:
        """Give one factor after the other the value with the most pairs that wait, or none where no pair does."""
        for factor in order:
            its = self.under.get(factor)
            if factor in row or (its is not None and (row.get(its[0], its[1]) != its[1] or its in self.dropped)):
                continue
            levels = [level for level in self._of(factor) if self._veil([level]) <= veil]
            best = max(levels, key=lambda level: self._gain(level, row, veil), default=None)
            if best is not None and self._gain(best, row, veil) > 0:
                row.update([best, *([its] if its is not None else [])])
        return tuple(row.get(i, 0) for i in range(len(self.counts)))

    def _gain(self, level: Level, row: Mapping[int, int], veil: int) -> int:
        """Return how many pairs of a row would be met first; less than none where one of them was in a refused row."""
        if level in self.dropped:
            return -1
        pairs = [(level, item) if level < item else (item, level) for item in row.items()]
        if any(pair in self.doubted for pair in pairs):
            return -1
        return sum(pair in self.waiting and self._veil(pair) == veil for pair in pairs)
