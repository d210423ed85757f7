"""Find which entry is which, by evidence that strengthens itself.

Each round makes soft matches from scores, then asks of every module, and of every kind of name, how many of the matches of
its entries go to one module, or one kind of name, of the other side (Dice's coefficient), and scores the pairs anew by
that: that blocks correspond follows from their entries, that `conv1` is called `convolution` from all blocks together. It
is the idea of IBM's first alignment model (Brown et al. 1993, doi 10.5555/972470.972474) and of similarity flooding
(Melnik et al. 2002, doi 10.1109/ICDE.2002.994702), with an assignment inside each shape at the end, and a margin: what an
exchange with any other pair would lose.

Cost: time and memory grow with the number of pairs of equal shape, and with keys times keys for the order of the file.
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from fxmap.keys.entries import Entry
from fxmap.keys.evidence import Candidates, Numbers, Scores, alone, candidates, order_is_evidence
from fxmap.keys.order import in_order

# How strongly soft matches prefer the better score, round by round.
_SHARPNESS = (4.0, 6.0, 8.0, 10.0, 12.0, 14.0)
# What the order of the whole file speaks for a pair, in the first and in the last round, and that within one shape.
_FILE_ORDER, _BLOCK_ORDER = (0.6, 0.2), 0.4
_MODULES, _OWNER, _KINDS = 2.0, 1.0, 2.0
_IMPOSSIBLE = -1e3
# Soft matches of a smaller share are left out of the groups' counts.
_UNLIKELY = 1e-3


@dataclass(frozen=True, slots=True)
class Match:
    """A source entry for a destination entry, by number; `margin` is what the best exchange would lose."""

    src: int
    dst: int
    score: float
    margin: float


@dataclass(frozen=True)
class Matches:
    """All matches, and the scores that they come from."""

    matches: tuple[Match, ...]
    pairs: Candidates
    scores: Scores
    order: float

    def nearest(self, dst: int, limit: int = 3) -> list[int]:
        """Return the source entries with the best scores for a destination entry, best first."""
        of = np.flatnonzero(self.pairs.dst == dst)
        best = of[np.argsort(-self.scores[of], kind="stable")][:limit]
        return [int(number) for number in self.pairs.src[best]]


def match_entries(src: Sequence[Entry], dst: Sequence[Entry]) -> Matches:
    """Match the entries of two key trees."""
    pairs = candidates(src, dst)
    order = order_is_evidence(src, dst)
    if not len(pairs.src):
        return Matches((), pairs, np.zeros(0), order)
    scores = _strengthened(src, dst, pairs, order)
    return Matches(tuple(_assign(scores, pairs)), pairs, scores, order)


def _strengthened(src: Sequence[Entry], dst: Sequence[Entry], pairs: Candidates, order: float) -> Scores:
    own = alone(src, dst, pairs, order)
    modules = _Groups([_modules(entry) for entry in src], [_modules(entry) for entry in dst])
    owners = _Groups([[entry.owner] for entry in src], [[entry.owner] for entry in dst])
    kinds = _Groups([_kinds(entry) for entry in src], [_kinds(entry) for entry in dst])
    scores = own
    for number, sharpness in enumerate(_SHARPNESS):
        share = number / (len(_SHARPNESS) - 1)
        file_order = _FILE_ORDER[0] + (_FILE_ORDER[1] - _FILE_ORDER[0]) * share
        soft = _soft(scores + order * in_order(scores, pairs, file_order, _BLOCK_ORDER), pairs, sharpness)
        scores = (
            own
            + _MODULES * modules.agreement(soft, pairs)
            + _OWNER * share * owners.agreement(soft, pairs)
            + _KINDS * kinds.agreement(soft, pairs)
        )
    return scores + order * in_order(scores, pairs, _FILE_ORDER[1], _BLOCK_ORDER)


def _modules(entry: Entry) -> list[Hashable]:
    return [entry.path[:depth] for depth in range(1, len(entry.path))]


def _kinds(entry: Entry) -> list[Hashable]:
    """Return what an entry is called, whichever layer it is in: its last names without numbers, and its last numbers."""
    plain = tuple(re.sub(r"\d+", "#", part) for part in entry.path)
    return [
        *(plain[-length:] for length in range(1, min(len(plain), 4) + 1)),
        ("", *entry.path[-2:]),
        ("", *entry.path[-3:]),
    ]


def _soft(scores: Scores, pairs: Candidates, sharpness: float) -> Scores:
    """Turn scores into shares, so that those of an entry sum to one at most (Sinkhorn's iteration)."""
    best = np.full(pairs.src.max() + 1, -np.inf)
    np.maximum.at(best, pairs.src, scores)
    shares: Scores = np.exp(sharpness * (scores - best[pairs.src]))
    for _ in range(5):
        shares = shares / np.maximum(np.bincount(pairs.src, shares), 1e-12)[pairs.src]
        shares = shares / np.maximum(np.bincount(pairs.dst, shares), 1.0)[pairs.dst]
    return shares


class _Groups:
    """Groups that entries belong to, several each, on both sides; how far groups correspond follows from soft matches."""

    def __init__(self, src: Sequence[Sequence[Hashable]], dst: Sequence[Sequence[Hashable]]) -> None:
        self.src, self.src_sizes = _table(src)
        self.dst, self.dst_sizes = _table(dst)

    def agreement(self, soft: Scores, pairs: Candidates) -> Scores:
        """Return for each pair how far the groups of one entry correspond to groups of the other: the mean of the best."""
        ours, theirs = self.src[pairs.src], self.dst[pairs.dst]
        dice = self._dice(soft, pairs)
        left, right = np.zeros(ours.shape), np.zeros(theirs.shape)
        for i in range(ours.shape[1]):
            for j in range(theirs.shape[1]):
                value = dice[ours[:, i], theirs[:, j]]
                np.maximum(left[:, i], value, out=left[:, i])
                np.maximum(right[:, j], value, out=right[:, j])
        counts = [(part < len(sizes) - 1).sum(1) for part, sizes in ((ours, self.src_sizes), (theirs, self.dst_sizes))]
        result: Scores = (left.sum(1) / np.maximum(counts[0], 1) + right.sum(1) / np.maximum(counts[1], 1)) / 2
        return result

    def _dice(self, soft: Scores, pairs: Candidates) -> Scores:
        """Return Dice's coefficient of all groups of both sides: twice what they share, of what they hold."""
        width = len(self.dst_sizes)
        ours, theirs = self.src[pairs.src], self.dst[pairs.dst]
        likely = np.flatnonzero(soft > _UNLIKELY)
        cells = (ours[likely][:, :, None] * width + theirs[likely][:, None]).ravel()
        shares = np.repeat(soft[likely], ours.shape[1] * theirs.shape[1])
        together = np.bincount(cells, shares, len(self.src_sizes) * width)
        dice: Scores = 2 * together.reshape(-1, width) / np.add.outer(self.src_sizes, self.dst_sizes)
        # The last group of each side stands for none.
        dice[-1], dice[:, -1] = 0, 0
        return dice


def _table(groups: Sequence[Sequence[Hashable]]) -> tuple[Numbers, Numbers]:
    """Return the numbers of each entry's groups, filled up with the number of none, and the size of each group."""
    numbers: dict[Hashable, int] = {}
    rows = [[numbers.setdefault(group, len(numbers)) for group in entry] for entry in groups]
    width = max(map(len, rows), default=0)
    table = np.array([[*row, *[len(numbers)] * (width - len(row))] for row in rows], np.int64).reshape(len(rows), width)
    return table, np.maximum(np.bincount(table.ravel(), minlength=len(numbers) + 1), 1)


def _assign(scores: Scores, pairs: Candidates) -> list[Match]:
    """Assign inside each shape, and measure what the best exchange would lose."""
    result = []
    for block in pairs.blocks:
        rows, row = np.unique(pairs.src[block], return_inverse=True)
        columns, column = np.unique(pairs.dst[block], return_inverse=True)
        gain = np.full((len(rows), len(columns)), _IMPOSSIBLE)
        gain[row, column] = scores[block]
        i, j = linear_sum_assignment(-gain)
        kept = gain[i, j] > _IMPOSSIBLE
        i, j = i[kept], j[kept]
        own = gain[i, j]
        exchanged = own[:, None] + own[None] - gain[np.ix_(i, j)] - gain[np.ix_(i, j)].T
        np.fill_diagonal(exchanged, np.inf)
        free_rows, free_columns = np.setdiff1d(np.arange(len(rows)), i), np.setdiff1d(np.arange(len(columns)), j)
        margin = np.min(exchanged, axis=1, initial=np.inf)
        margin = np.minimum(margin, own - np.max(gain[np.ix_(free_rows, j)], axis=0, initial=-np.inf))
        margin = np.minimum(margin, own - np.max(gain[np.ix_(i, free_columns)], axis=1, initial=-np.inf))
        result += [
            Match(int(rows[a]), int(columns[b]), float(score), float(loss))
            for a, b, score, loss in zip(i, j, own, margin, strict=True)
        ]
    return result
