"""Groups of entries (modules, kinds of names), and the agreement between groups of both sides."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from fxmap.matching.keys.scores import Candidates, Numbers, Scores
from fxmap.matching.keys.weights import LIMITS


def soft_matches(scores: Scores, pairs: Candidates, sharpness: float) -> Scores:
    """Convert the scores of pairs to soft matches: shares that sum to at most one for each entry (Sinkhorn's iteration)."""
    best = np.full(pairs.src.max() + 1, -np.inf)
    np.maximum.at(best, pairs.src, scores)
    shares: Scores = np.exp(sharpness * (scores - best[pairs.src]))
    for _ in range(5):
        shares = shares / np.maximum(np.bincount(pairs.src, shares), 1e-12)[pairs.src]
        shares = shares / np.maximum(np.bincount(pairs.dst, shares), 1.0)[pairs.dst]
    return shares


class Groups:
    """The groups of all entries, several for each entry; groups correspond as far as soft matches of their entries do."""

    def __init__(
        self, src: Sequence[Sequence[Hashable]], dst: Sequence[Sequence[Hashable]], weights: tuple[Scores, Scores]
    ) -> None:
        self.src, self.src_sizes, self.src_names = _table(src, weights[0])
        self.dst, self.dst_sizes, self.dst_names = _table(dst, weights[1])
        self.weights = weights

    def agreement(self, soft: Scores, pairs: Candidates) -> Scores:
        """Return, for each pair, how far the groups of its entries correspond: the mean of their best coefficients."""
        return self.best(self._dice(soft, pairs), pairs)

    def best(self, value_of: Callable[[Numbers, Numbers], Scores], pairs: Candidates) -> Scores:
        """Return, for each pair, the mean, over the groups of both entries, of the best value with a group of the other."""
        ours, theirs = self.src[pairs.src], self.dst[pairs.dst]
        left, right = np.zeros(ours.shape), np.zeros(theirs.shape)
        for i in range(ours.shape[1]):
            for j in range(theirs.shape[1]):
                value = value_of(ours[:, i], theirs[:, j])
                np.maximum(left[:, i], value, out=left[:, i])
                np.maximum(right[:, j], value, out=right[:, j])
        counts = [(part < len(sizes) - 1).sum(1) for part, sizes in ((ours, self.src_sizes), (theirs, self.dst_sizes))]
        result: Scores = (left.sum(1) / np.maximum(counts[0], 1) + right.sum(1) / np.maximum(counts[1], 1)) / 2
        return result

    def shares(self, soft: Scores, pairs: Candidates) -> tuple[Numbers, Numbers, Scores]:
        """Return pairs of groups of both sides, by number, that share entries, and Dice's coefficient of each pair."""
        known, values = self._coefficients(soft, pairs)
        likely = np.flatnonzero(values > LIMITS.unlikely)
        one, other = np.divmod(known[likely], len(self.dst_sizes))
        return one, other, values[likely]

    def _dice(self, soft: Scores, pairs: Candidates) -> Callable[[Numbers, Numbers], Scores]:
        height, width = len(self.src_sizes), len(self.dst_sizes)
        known, values = self._coefficients(soft, pairs)
        if len(known) == height * width:
            return lambda ours, theirs: values[ours * width + theirs]
        return lambda ours, theirs: look_up(known, values, ours * width + theirs, 0.0)

    def _coefficients(self, soft: Scores, pairs: Candidates) -> tuple[Numbers, Scores]:
        """Return pairs of groups, by number, and their Dice coefficients: twice the shared weight over the total weight."""
        height, width = len(self.src_sizes), len(self.dst_sizes)
        ours, theirs = self.src[pairs.src], self.dst[pairs.dst]
        likely = np.flatnonzero(soft > LIMITS.unlikely)
        cells = (ours[likely][:, :, None] * width + theirs[likely][:, None]).ravel()
        weight = np.sqrt(self.weights[0][pairs.src[likely]] * self.weights[1][pairs.dst[likely]])
        shares = np.repeat(soft[likely] * weight, ours.shape[1] * theirs.shape[1])
        if height * width <= LIMITS.group_cells:
            known, places = np.arange(height * width), cells
        else:
            known, places = np.unique(cells, return_inverse=True)
        one, other = np.divmod(known, width)
        values = 2 * np.bincount(places, shares, len(known)) / (self.src_sizes[one] + self.dst_sizes[other])
        # The last group of each side stands for none.
        values[(one == height - 1) | (other == width - 1)] = 0
        return known, values


def look_up(known: Numbers, values: Scores, wanted: Numbers, default: float) -> Scores:
    """Look up values by number in sorted numbers; missing ones get the default."""
    if not len(known):
        return np.full(len(wanted), default)
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[places] == wanted, values[places], default)


def _table(groups: Sequence[Sequence[Hashable]], weights: Scores) -> tuple[Numbers, Scores, list[Hashable]]:
    """Return the numbers of each entry's groups, padded with a number for no group; each group's weight, and its name."""
    numbers: dict[Hashable, int] = {}
    rows = [[numbers.setdefault(group, len(numbers)) for group in entry] for entry in groups]
    width = max(map(len, rows), default=0)
    table = np.array([[*row, *[len(numbers)] * (width - len(row))] for row in rows], np.int64).reshape(len(rows), width)
    sizes = np.bincount(table.ravel(), np.repeat(weights, width), minlength=len(numbers) + 1)
    return table, np.maximum(sizes, 1e-9), list(numbers)
