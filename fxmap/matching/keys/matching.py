"""Find which entry is which, by evidence that strengthens itself.

Each round makes soft matches from scores, then asks of every module, and of every kind of name, how many of the matches of
its entries go to one module, or one kind of name, of the other side (Dice's coefficient), and scores the pairs anew by
that: that blocks correspond follows from their entries, that `conv1` is called `convolution` from all blocks together. It
is the idea of IBM's first alignment model (Brown et al. 1993, doi 10.5555/972470.972474) and of similarity flooding
(Melnik et al. 2002, doi 10.1109/ICDE.2002.994702), with an assignment inside each shape at the end, and two margins: what an
exchange with any other pair would lose, and what it would lose if the keys of whole modules were exchanged. What modules
and names that occur once tell each other is no evidence then: an exchange takes it along.

Cost: time and memory grow with the number of pairs of equal shape that are looked at (a bounded number for each shape), and
with keys times keys for the order of the file.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from fxmap.matching.keys.entries import Entry
from fxmap.matching.keys.evidence import Candidates, Numbers, Scores, alone, candidates, order_is_evidence
from fxmap.matching.keys.exchanges import Exchange, keeps_branches, orbits
from fxmap.matching.keys.order import in_order

# How strongly soft matches prefer the better score, round by round.
_SHARPNESS = (4.0, 6.0, 8.0, 10.0, 12.0, 14.0)


# What the order of the whole file speaks for a pair, in the first and in the last round, and that within one shape.
_FILE_ORDER, _BLOCK_ORDER = (0.6, 0.2), 0.4


_MODULES, _OWNER, _KINDS = 2.0, 1.0, 2.0


_IMPOSSIBLE = -1e3


_RARITY = 0.5


# What decides between two branches that nothing else tells apart.
_LEAN = 1.0


# Soft matches of a smaller share are left out of the groups' counts.
_UNLIKELY = 1e-3


# Above these numbers only the cells of a table that are possible are stored: pairs of groups, pairs of one shape.
_MANY_GROUPS, _MANY_CELLS = 4_000_000, 1_000_000


@dataclass(frozen=True, slots=True)
class Match:
    """A source entry for a destination entry, by number.

    `margin` is what the best exchange with another match would lose, `module_margin` what it would lose if it took along all
    other keys of both modules.
    """

    src: int
    dst: int
    score: float
    margin: float
    module_margin: float


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


def match_entries(src: Sequence[Entry], dst: Sequence[Entry], exchanges: Sequence[Exchange] = ()) -> Matches:
    """Match the entries of two key trees.

    `exchanges` are keys of the destination that can change places with one another, all of them at once, without any effect:
    what tells only them apart need not be decided.
    """
    pairs = candidates(src, dst)
    order = order_is_evidence(src, dst)
    if not len(pairs.src):
        return Matches((), pairs, np.zeros(0), order)
    scores, shared = _strengthened(src, dst, pairs, order)
    chosen, free = _assigned_freely(src, dst, pairs, scores, exchanges)
    if len(free) < len(exchanges):
        # Nothing tells two branches apart, and their keys were assigned at random: one key of each decides for the others.
        first = {key for exchange in exchanges if exchange not in free for key in next(iter(exchange.items()))}
        lean = np.zeros(len(scores))
        lean[[pair for numbers in chosen for pair in numbers if dst[pairs.dst[pair]].key in first]] = _LEAN
        scores, shared = _strengthened(src, dst, pairs, order, lean)
        chosen, free = _assigned_freely(src, dst, pairs, scores, exchanges)
    orbit = orbits(dst, free)
    margins = [
        [_margins(values, pairs, block, numbers, orbit) for values in (scores, shared)]
        for block, numbers in zip(pairs.blocks, chosen, strict=True)
    ]
    matches = [
        Match(int(pairs.src[pair]), int(pairs.dst[pair]), float(scores[pair]), float(loss), float(module_loss))
        for numbers, losses in zip(chosen, margins, strict=True)
        for pair, loss, module_loss in zip(numbers, *losses, strict=True)
    ]
    return Matches(tuple(matches), pairs, scores, order)


def _assigned_freely(
    src: Sequence[Entry], dst: Sequence[Entry], pairs: Candidates, scores: Scores, exchanges: Sequence[Exchange]
) -> tuple[list[Numbers], list[Exchange]]:
    """Return the pairs assigned to one another, by block, and the exchanges that then are without effect."""
    chosen = [_chosen(scores, pairs, block) for block in pairs.blocks]
    sources = {dst[pairs.dst[pair]].key: src[pairs.src[pair]] for numbers in chosen for pair in numbers}
    return chosen, [exchange for exchange in exchanges if keeps_branches(exchange, sources)]


def _strengthened(
    src: Sequence[Entry], dst: Sequence[Entry], pairs: Candidates, order: float, lean: Scores | float = 0.0
) -> tuple[Scores, Scores]:
    """Return the scores of the last round, and the part of them that an exchange of whole modules would not take along.

    `lean` is what is added to pairs before soft matches are made.
    """
    own = alone(src, dst, pairs, order)
    weights = _weights(src, dst)
    modules = _Groups([_modules(entry) for entry in src], [_modules(entry) for entry in dst], weights)
    owners = _Groups([[entry.owner] for entry in src], [[entry.owner] for entry in dst], weights)
    kinds = _Groups([_kinds(entry) for entry in src], [_kinds(entry) for entry in dst], weights)
    scores, soft = own, np.zeros(len(own))
    for number, sharpness in enumerate(_SHARPNESS):
        share = number / (len(_SHARPNESS) - 1)
        file_order = _FILE_ORDER[0] + (_FILE_ORDER[1] - _FILE_ORDER[0]) * share
        soft = _soft(scores + lean + order * in_order(scores, pairs, file_order, _BLOCK_ORDER), pairs, sharpness)
        scores = (
            own
            + _MODULES * modules.agreement(soft, pairs)
            + _OWNER * share * owners.agreement(soft, pairs)
            + _KINDS * kinds.agreement(soft, pairs)
        )
    in_file = order * in_order(scores, pairs, _FILE_ORDER[1], _BLOCK_ORDER)
    above = _Groups(_of_several(src, _ancestors), _of_several(dst, _ancestors), weights)
    common = _Groups(_of_several(src, _kinds), _of_several(dst, _kinds), weights)
    shared = own + _MODULES * above.agreement(soft, pairs) + _KINDS * common.agreement(soft, pairs)
    return scores + in_file, shared + in_file


def _weights(src: Sequence[Entry], dst: Sequence[Entry]) -> tuple[Scores, Scores]:
    """Return what each entry says of its module: the less, the more entries have its shape."""
    counts = Counter(entry.size for side in (src, dst) for entry in side)
    ours, theirs = (np.array([counts[entry.size] ** -_RARITY for entry in side]) for side in (src, dst))
    return ours, theirs


def _of_several(entries: Sequence[Entry], groups: Callable[[Entry], list[Hashable]]) -> list[list[Hashable]]:
    """Return the groups of each entry that hold entries of several modules."""
    owners: dict[Hashable, set[Hashable]] = defaultdict(set)
    for entry in entries:
        for group in groups(entry):
            owners[group].add(entry.owner)
    return [[group for group in groups(entry) if len(owners[group]) > 1] for entry in entries]


def _ancestors(entry: Entry) -> list[Hashable]:
    return _modules(entry)[:-1]


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

    def __init__(
        self, src: Sequence[Sequence[Hashable]], dst: Sequence[Sequence[Hashable]], weights: tuple[Scores, Scores]
    ) -> None:
        self.src, self.src_sizes = _table(src, weights[0])
        self.dst, self.dst_sizes = _table(dst, weights[1])
        self.weights = weights

    def agreement(self, soft: Scores, pairs: Candidates) -> Scores:
        """Return for each pair how far the groups of one entry correspond to groups of the other: the mean of the best."""
        ours, theirs = self.src[pairs.src], self.dst[pairs.dst]
        dice = self._dice(soft, pairs)
        left, right = np.zeros(ours.shape), np.zeros(theirs.shape)
        for i in range(ours.shape[1]):
            for j in range(theirs.shape[1]):
                value = dice(ours[:, i], theirs[:, j])
                np.maximum(left[:, i], value, out=left[:, i])
                np.maximum(right[:, j], value, out=right[:, j])
        counts = [(part < len(sizes) - 1).sum(1) for part, sizes in ((ours, self.src_sizes), (theirs, self.dst_sizes))]
        result: Scores = (left.sum(1) / np.maximum(counts[0], 1) + right.sum(1) / np.maximum(counts[1], 1)) / 2
        return result

    def _dice(self, soft: Scores, pairs: Candidates) -> Callable[[Numbers, Numbers], Scores]:
        """Return Dice's coefficient of groups of both sides, by number: twice what they share, of what they hold."""
        height, width = len(self.src_sizes), len(self.dst_sizes)
        ours, theirs = self.src[pairs.src], self.dst[pairs.dst]
        likely = np.flatnonzero(soft > _UNLIKELY)
        cells = (ours[likely][:, :, None] * width + theirs[likely][:, None]).ravel()
        weight = np.sqrt(self.weights[0][pairs.src[likely]] * self.weights[1][pairs.dst[likely]])
        shares = np.repeat(soft[likely] * weight, ours.shape[1] * theirs.shape[1])
        if height * width <= _MANY_GROUPS:
            known, places = np.arange(height * width), cells
        else:
            known, places = np.unique(cells, return_inverse=True)
        one, other = np.divmod(known, width)
        values = 2 * np.bincount(places, shares, len(known)) / (self.src_sizes[one] + self.dst_sizes[other])
        # The last group of each side stands for none.
        values[(one == height - 1) | (other == width - 1)] = 0
        if len(known) == height * width:
            return lambda ours, theirs: values[ours * width + theirs]
        return lambda ours, theirs: _found(known, values, ours * width + theirs, 0.0)


def _found(known: Numbers, values: Scores, wanted: Numbers, default: float) -> Scores:
    """Look up values by sorted numbers."""
    if not len(known):
        return np.full(len(wanted), default)
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[places] == wanted, values[places], default)


def _table(groups: Sequence[Sequence[Hashable]], weights: Scores) -> tuple[Numbers, Scores]:
    """Return the numbers of each entry's groups, filled up with the number of none, and the weight of each group."""
    numbers: dict[Hashable, int] = {}
    rows = [[numbers.setdefault(group, len(numbers)) for group in entry] for entry in groups]
    width = max(map(len, rows), default=0)
    table = np.array([[*row, *[len(numbers)] * (width - len(row))] for row in rows], np.int64).reshape(len(rows), width)
    sizes = np.bincount(table.ravel(), np.repeat(weights, width), minlength=len(numbers) + 1)
    return table, np.maximum(sizes, 1e-9)


def _chosen(scores: Scores, pairs: Candidates, block: slice) -> Numbers:
    """Return the numbers of the pairs of one shape that are assigned to one another."""
    row, column = (np.unique(part[block], return_inverse=True)[1] for part in (pairs.src, pairs.dst))
    numbers: Numbers = block.start + _assigned(scores[block], row, column)
    return numbers


def _assigned(scores: Scores, row: Numbers, column: Numbers) -> Numbers:
    """Return the numbers of the pairs whose scores are the largest in sum, one a row and one a column at most."""
    height, width = int(row.max()) + 1, int(column.max()) + 1
    if height * width <= _MANY_CELLS:
        gain = np.full((height, width), _IMPOSSIBLE)
        gain[row, column] = scores
        i, j = linear_sum_assignment(-gain)
        kept = gain[i, j] > _IMPOSSIBLE
        i, j = i[kept], j[kept]
    else:
        # Few of the cells are possible. A column of its own for each row, at a price, so that there always is an assignment.
        price = float(scores.max() - scores.min()) * 2 + 1
        cost = np.concatenate([scores.max() + 1 - scores, np.full(height, price + 1)])
        places = (np.concatenate([row, np.arange(height)]), np.concatenate([column, width + np.arange(height)]))
        i, j = min_weight_full_bipartite_matching(csr_matrix((cost, places), (height, width + height)))
        kept = j < width
        i, j = i[kept], j[kept]
    cells = row * width + column
    by_cell: Numbers = np.argsort(cells)
    found: Numbers = by_cell[np.searchsorted(cells[by_cell], i * width + j)]
    return found


def _margins(values: Scores, pairs: Candidates, block: slice, numbers: Numbers, orbit: Numbers) -> Scores:
    """Return for each chosen pair what the best exchange with another chosen pair, or with what is left over, would lose.

    Exchanges inside an orbit have no effect, and are no choice.
    """
    scores, chosen = values[block], numbers - block.start
    row, column = (np.unique(part[block], return_inverse=True)[1] for part in (pairs.src, pairs.dst))
    height, width = int(row.max()) + 1, int(column.max()) + 1
    of_row, of_column = np.full(height, -1), np.full(width, -1)
    of_row[row[chosen]] = of_column[column[chosen]] = np.arange(len(chosen))
    own = np.append(scores[chosen], 0.0)
    first, second = of_row[row], of_column[column]
    cells = row * width + column
    by_cell = np.argsort(cells)
    # The fourth corner of the exchange: the other pair's source for this pair's destination.
    other_row, other_column = np.append(row[chosen], 0)[second], np.append(column[chosen], 0)[first]
    crossed = _found(cells[by_cell], scores[by_cell], other_row * width + other_column, _IMPOSSIBLE)
    loss = own[first] + own[second] - scores - np.where((first >= 0) & (second >= 0), crossed, 0.0)
    margin = np.full(len(chosen) + 1, np.inf)
    orbits_chosen = np.append(orbit[pairs.dst[numbers]], -1)
    apart = (first != second) & ((first < 0) | (orbits_chosen[first] != orbit[pairs.dst[block]]))
    np.minimum.at(margin, first[apart], loss[apart])
    np.minimum.at(margin, second[apart], loss[apart])
    return margin[:-1]
