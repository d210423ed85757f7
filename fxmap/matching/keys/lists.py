"""Numbered lists of modules: the order of their numbers is evidence even if a file is sorted by name.

The order of a file that is sorted by name tells nothing: `key` stands before `query`, `10` before `2`. But the blocks of one
list still follow one another by their numbers. So lists are compared with lists: the soft matches of their entries pair the
lists of both sides, and the best path through two lists pairs their blocks.

>>> names = ("a.2.fc", "a.2.norm", "a.10.fc", "a.10.norm", "head")
>>> keys = [f"{name}.{leaf}" for name in names for leaf in ("weight", "bias")]
>>> is_sorted(keys), is_sorted(sorted(keys)), is_sorted([f"blocks.{n}.weight" for n in range(20)])
(False, True, False)

Cost: for each pair of lists that correspond, the product of their lengths; a handful of pairs in each round.
"""

import re
from collections.abc import Hashable, Sequence
from itertools import pairwise

import numpy as np

from fxmap.matching.keys.entries import Entry
from fxmap.matching.keys.groups import Groups, look_up
from fxmap.matching.keys.order import best_path
from fxmap.matching.keys.scores import Candidates, Numbers, Scores
from fxmap.matching.keys.weights import LIMITS, WEIGHTS


def is_sorted(keys: Sequence[str]) -> bool:
    """Whether keys are sorted by name, as text or with numbers as numbers; a file in parts may be sorted part by part.

    A model's own order may be sorted by chance: there must be enough different neighbouring names to tell.
    """
    by_text = sum(one > other for one, other in pairwise(keys))
    by_number = sum(one > other for one, other in pairwise(map(natural, keys)))
    if min(by_text, by_number) * LIMITS.sorted_run > len(keys):
        return False
    # No model's own order has `10` before `2`.
    return by_text < by_number or _choices(keys) >= LIMITS.sorted_choices


def _choices(keys: Sequence[str]) -> int:
    """Count the kinds of neighbouring keys whose names differ in more than numbers: each may be in order by chance."""
    found = set()
    for one, other in pairwise(keys):
        left, right = (re.sub(r"\d+", "#", key).split(".") for key in (one, other))
        depth = next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
        if depth is not None and one.split(".")[:depth] == other.split(".")[:depth]:
            found.add((*left[: depth + 1], right[depth]))
    return len(found)


def natural(key: str) -> list[tuple[int, str]]:
    """Return a sort key that orders numbers in names as numbers.

    >>> sorted(["a.10", "a.9", "a.b"], key=natural)
    ['a.9', 'a.10', 'a.b']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", key)]


class Lists:
    """The numbered modules of both sides, and the pairs of them that preserve the order of their lists.

    `named` leaves out layers whose number is a part of their name (`fc1`), which tells less of their order than a list does.
    """

    def __init__(
        self, src: Sequence[Entry], dst: Sequence[Entry], weights: tuple[Scores, Scores], *, named: bool = False
    ) -> None:
        self.items = Groups([_items(one, named) for one in src], [_items(one, named) for one in dst], weights)
        self._lists = tuple(_Ranks(names) for names in (self.items.src_names, self.items.dst_names))

    def agreement(self, soft: Scores, pairs: Candidates) -> Scores:
        """Return, for each pair, how far the numbered modules around its entries match in the order of their lists.

        It counts less where few modules of the two lists match in order: a list of two is found in every longer one.
        """
        cells, shares = self._in_order(soft, pairs)
        width = len(self.items.dst_sizes)
        return self.items.best(lambda ours, theirs: look_up(cells, shares, ours * width + theirs, 0.0), pairs)

    def _in_order(self, soft: Scores, pairs: Candidates) -> tuple[Numbers, Scores]:
        """Return the indices of the cells (source module, destination module) on a best path, sorted, and their shares."""
        one, other, values = self.items.shares(soft, pairs)
        width = len(self.items.dst_sizes)
        if not len(one):
            return one, np.zeros(0)
        ours, theirs = self._lists
        cell = ours.of[one] * (theirs.count + 1) + theirs.of[other]
        known, place = np.unique(cell, return_inverse=True)
        mass = np.bincount(place, values, len(known))
        chosen: set[int] = set()
        for side in np.divmod(known, theirs.count + 1):
            by_mass = np.lexsort((mass, side))
            last = np.append(side[by_mass][1:] != side[by_mass][:-1], True)
            chosen.update(by_mass[last].tolist())
        on_path: dict[int, float] = {}
        for number in sorted(chosen):
            of = np.flatnonzero(place == number)
            rows = np.unique(ours.rank[one[of]], return_inverse=True)[1]
            columns = np.unique(theirs.rank[other[of]], return_inverse=True)[1]
            through = of[best_path(values[of], rows, columns)]
            total = float(ours.sizes[ours.of[one[of[0]]]] + theirs.sizes[theirs.of[other[of[0]]]])
            share = min(1.0, WEIGHTS.lists * 2 * len(through) / total)
            on_path.update(dict.fromkeys((one[through] * width + other[through]).tolist(), share))
        cells: Numbers = np.array(sorted(on_path), np.int64)
        return cells, np.array([on_path[cell] for cell in cells.tolist()])


class _Ranks:
    """For each numbered module of one side, by index, the list that it is in, and its position there."""

    def __init__(self, names: Sequence[Hashable]) -> None:
        lists: dict[Hashable, int] = {}
        found = [_pattern(name) for name in names]
        self.of = np.array([lists.setdefault(pattern, len(lists)) for pattern, _ in found], np.int64)
        order = sorted(range(len(found)), key=lambda n: (self.of[n], found[n][1]))
        self.rank = np.empty(len(found), np.int64)
        self.rank[order] = np.arange(len(found))
        self.count = len(lists)
        self.sizes = np.bincount(self.of, minlength=self.count)


def _pattern(name: Hashable) -> tuple[Hashable, tuple[int, ...]]:
    """Return the name of a module with its numbers replaced by `#`, and these numbers."""
    text = ".".join(name) if isinstance(name, tuple) else ""
    return re.sub(r"\d+", "#", text), tuple(map(int, re.findall(r"\d+", text)))


def _items(entry: Entry, named: bool) -> list[Hashable]:
    """Return the numbered modules around an entry; `named` leaves out a layer that is not in a list."""
    last = len(entry.path) - 1
    return [
        entry.path[:depth]
        for depth, part in enumerate(entry.path[:-1], 1)
        if part.isdigit() or (re.search(r"\d", part) and not (named and depth == last))
    ]
