"""Scores of pairs of entries, each by itself: shapes, names, the module around, the neighbours in the file."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxmap.matching.keys.entries import Entry, by_owner
from fxmap.matching.keys.similarity import name_similarities, words
from fxmap.matching.keys.vocabulary import told
from fxmap.matching.keys.weights import LIMITS, WEIGHTS

Numbers = NDArray[np.int64]


Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """Pairs of entries that can be the same tensor: index of the source entry, index of the destination entry.

    `blocks` are the ranges of pairs of one size: every entry occurs in only one block.
    """

    src: Numbers
    dst: Numbers
    blocks: tuple[slice, ...]


def candidates(src: Sequence[Entry], dst: Sequence[Entry]) -> Candidates:
    """Pair the entries of equal size whose leaf names are equal, or where one of the names occurs on one side only."""
    shared = {entry.leaf for entry in src} & {entry.leaf for entry in dst}
    groups: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, entries in enumerate((src, dst)):
        for number, size in enumerate(_sizes(entries, dst if side == 0 else src)):
            groups[size][side].append(number)
    left, right, blocks, start = [], [], [], 0
    names = np.array([entry.leaf if entry.leaf in shared else "" for entry in (*src, *dst)])
    for ours, theirs in groups.values():
        i, j = _paired(ours, theirs)
        one, other = names[: len(src)][i], names[len(src) :][j]
        keep = (one == other) | (one == "") | (other == "")
        left.append(i[keep])
        right.append(j[keep])
        blocks.append(slice(start, start + int(keep.sum())))
        start = blocks[-1].stop
    pairs = [np.concatenate(part) if part else np.zeros(0, np.int64) for part in (left, right)]
    return Candidates(pairs[0], pairs[1], tuple(block for block in blocks if block.stop > block.start))


def _paired(ours: Sequence[int], theirs: Sequence[int]) -> tuple[Numbers, Numbers]:
    """Pair every source entry with every destination entry of a block; if those are too many, only with near ones."""
    left, right = np.array(ours, np.int64), np.array(theirs, np.int64)
    if len(left) * len(right) <= LIMITS.pairs:
        return np.repeat(left, len(right)), np.tile(right, len(left))
    width = min(max(LIMITS.pairs // len(left), 1), len(right))
    # The start of a window of this width, centred on the same relative position in the block.
    centre = np.arange(len(left)) * len(right) // max(len(left), 1)
    first = np.clip(centre - width // 2, 0, len(right) - width)
    return np.repeat(left, width), right[(first[:, None] + np.arange(width)).ravel()]


def _sizes(entries: Sequence[Entry], others: Sequence[Entry]) -> list[Hashable]:
    """Return the sizes by which entries are paired: their shapes without axes of length one.

    If the other side has no such size, it is the number of rows and of elements. Floating-point tensors and others have
    different sizes.
    """
    known = {entry.size for entry in others}
    return [
        (entry.floating, entry.size if entry.size in known else ("flat", entry.shape[:1], int(np.prod(entry.shape))))
        for entry in entries
    ]


def order_is_evidence(src: Sequence[Entry], dst: Sequence[Entry]) -> float:
    """Return, from 0 to 1, how far both sides have the same order: Kendall's tau of the keys whose shape is unique.

    If there are too few of these, it is the share of the shapes that both sides have. Both count only as far as the order
    of modules agrees better than at random.
    """
    ours, theirs = (Counter(entry.size for entry in side) for side in (src, dst))
    place = {entry.size: number for number, entry in enumerate(dst)}
    sure = [place[entry.size] for entry in src if ours[entry.size] == 1 == theirs[entry.size]]
    chance = _beyond_chance(src, dst)
    if len(sure) < 3:
        return chance * (ours & theirs).total() / max(len(src), len(dst), 1)
    later = np.sign(np.subtract.outer(sure, sure))[np.tril_indices(len(sure), -1)]
    return chance * max(0.0, float(later.mean()))


def _beyond_chance(src: Sequence[Entry], dst: Sequence[Entry]) -> float:
    """Return, from 0 to 1, how much longer the common subsequence of modules is than for a shuffled destination."""
    left, right = _numbered(*(_module_sizes(side) for side in (src, dst)))
    shared, draws, flat = _shared(left, right), 3, False
    if shared < 2:
        # No modules are equal on both sides, as if one side is a flat list: entries are many and noisy, so that their common
        # subsequence must be longer than in every draw.
        left, right = _numbered([entry.size for entry in src], [entry.size for entry in dst])
        shared, draws, flat = _shared(left, right), 20, True
    if shared < 2 or len(left) * len(right) > LIMITS.module_pairs:
        return 1.0
    random = np.random.default_rng(0)
    lengths = [common_length(left, random.permutation(right)) for _ in range(draws)]
    chance = float(max(lengths) if flat else np.mean(lengths))
    if shared - chance < 1:
        # Modules that are all alike are in order in any permutation.
        return 1.0
    excess = (common_length(left, right) - chance) / (shared - chance)
    return min(1.0, max(0.0, excess / WEIGHTS.beyond_chance))


def _shared(one: Numbers, other: Numbers) -> int:
    return (Counter(one.tolist()) & Counter(other.tolist())).total()


def common_length(one: Numbers, other: Numbers) -> int:
    """Return the length of the longest common subsequence, row by row of the Needleman-Wunsch table.

    >>> common_length(np.array([1, 2, 3, 2]), np.array([2, 1, 3, 2]))
    3
    """
    above = np.zeros(len(other) + 1, np.int64)
    for number in one:
        above[1:] = np.maximum.accumulate(np.maximum(above[1:], above[:-1] + (other == number)))
    return int(above[-1])


def _module_sizes(entries: Sequence[Entry]) -> list[Hashable]:
    return [tuple(sorted(entries[n].size for n in numbers)) for numbers in by_owner(entries).values()]


def alone(src: Sequence[Entry], dst: Sequence[Entry], pairs: Candidates, order: float) -> Scores:
    """Return the score of each pair from evidence on that pair alone, without other pairs."""
    same_leaf = _by_entry([entry.leaf for entry in src], [entry.leaf for entry in dst], pairs)
    same_shape = _by_entry([entry.shape for entry in src], [entry.shape for entry in dst], pairs)
    same_path = _by_entry([entry.path for entry in src], [entry.path for entry in dst], pairs)
    # Equal paths are evidence as far as both sides have the same paths.
    common = float(same_path.sum()) / max(min(len(src), len(dst)), 1)
    return (
        WEIGHTS.path * common * same_path
        + WEIGHTS.leaf * same_leaf
        + WEIGHTS.shape * same_shape
        + WEIGHTS.words * _names(src, dst, pairs)
        + WEIGHTS.owner * _owners(src, dst, pairs)
        + spoken(src, dst, pairs)
        - WEIGHTS.repeated * _repeated(src, dst, pairs)
        + WEIGHTS.neighbours * order * _neighbours(src, dst, pairs)
    )


def spoken(src: Sequence[Entry], dst: Sequence[Entry], pairs: Candidates) -> Scores:
    """Return the score of each pair from the vocabulary of its names: q agrees with query, and contradicts key.

    Two words contradict one another only if both sides use at least one of them.
    """
    ours, theirs = (told([entry.path for entry in side]) for side in (src, dst))
    result = np.zeros(len(pairs.src))
    for family in sorted({family for said in (*ours, *theirs) for family in said}):
        left, right = ([said.get(family, "") for said in side] for side in (ours, theirs))
        both = (set(left) & set(right)) - {""}
        if both:
            one, other = _numbered(left, right)
            known = _where(left, lambda word: word != "")[pairs.src] & _where(right, lambda word: word != "")[pairs.dst]
            shared = _where(left, both.__contains__)[pairs.src] | _where(right, both.__contains__)[pairs.dst]
            equal = one[pairs.src] == other[pairs.dst]
            result += np.where(known & shared, np.where(equal, WEIGHTS.agrees, -WEIGHTS.contradicts), 0.0)
    return result


def _where(words: Sequence[str], holds: Callable[[str], bool]) -> NDArray[np.bool_]:
    return np.array([holds(word) for word in words], bool)


def _repeated(src: Sequence[Entry], dst: Sequence[Entry], pairs: Candidates) -> Scores:
    """Return 1 for pairs of which one entry is repeated in the blocks of a list and the other occurs once, else 0."""
    left, right = (_repeats(side) for side in (src, dst))
    differ: Scores = (left[pairs.src] != right[pairs.dst]).astype(np.float64)
    return differ


def _repeats(entries: Sequence[Entry]) -> NDArray[np.bool_]:
    names = [(re.sub(r"\d+", "#", ".".join(entry.path)), entry.size) for entry in entries]
    counts = Counter(names)
    return np.array([counts[name] > 1 for name in names], bool)


def _by_entry(ours: Sequence[Hashable], theirs: Sequence[Hashable], pairs: Candidates) -> Scores:
    left, right = _numbered(ours, theirs)
    equal: Scores = (left[pairs.src] == right[pairs.dst]).astype(np.float64)
    return equal


def _numbered(ours: Sequence[Hashable], theirs: Sequence[Hashable]) -> tuple[Numbers, Numbers]:
    numbers: dict[Hashable, int] = {}
    left, right = ([numbers.setdefault(value, len(numbers)) for value in side] for side in (ours, theirs))
    return np.array(left, np.int64), np.array(right, np.int64)


def _names(src: Sequence[Entry], dst: Sequence[Entry], pairs: Candidates) -> Scores:
    left, right = ([words(entry.path) for entry in side] for side in (src, dst))
    ours, theirs = (list(dict.fromkeys(side)) for side in (left, right))
    cells = _index(left, ours)[pairs.src] * max(len(theirs), 1) + _index(right, theirs)[pairs.dst]
    known, places = np.unique(cells, return_inverse=True)
    one, other = np.divmod(known, max(len(theirs), 1))
    found = name_similarities([ours[n] for n in one], [theirs[n] for n in other])
    return found[places]


def _looked_up(table: Scores, src: Numbers, dst: Numbers, pairs: Candidates) -> Scores:
    found: Scores = table[src[pairs.src], dst[pairs.dst]]
    return found


def _index(values: Sequence[Hashable], known: Sequence[Hashable]) -> Numbers:
    number = {value: n for n, value in enumerate(known)}
    return np.array([number[value] for value in values], np.int64)


def _owners(src: Sequence[Entry], dst: Sequence[Entry], pairs: Candidates) -> Scores:
    """Return the overlap of the tensors in the modules of both entries: the bias of a norm is not that of a linear layer."""
    shared = {entry.leaf for entry in src} & {entry.leaf for entry in dst}
    left, right = (_contents(side, shared) for side in (src, dst))
    ours, theirs = (list(dict.fromkeys(side)) for side in (left, right))
    table: Scores = np.array([[_jaccard(Counter(dict(one)), Counter(dict(other))) for other in theirs] for one in ours])
    return _looked_up(table, _index(left, ours), _index(right, theirs), pairs)


def _contents(entries: Sequence[Entry], shared: set[str]) -> list[frozenset[tuple[Hashable, int]]]:
    result: list[frozenset[tuple[Hashable, int]]] = [frozenset()] * len(entries)
    for numbers in by_owner(entries).values():
        held = Counter((entries[n].leaf if entries[n].leaf in shared else "", entries[n].size) for n in numbers)
        for n in numbers:
            result[n] = frozenset(held.items())
    return result


def _jaccard(one: Counter[Hashable], other: Counter[Hashable]) -> float:
    return (one & other).total() / max((one | other).total(), 1)


def _neighbours(src: Sequence[Entry], dst: Sequence[Entry], pairs: Candidates) -> Scores:
    """Return, for each pair, the share of neighbours in both files that have equal sizes at equal distances."""
    left, right = _numbered([entry.size for entry in src], [entry.size for entry in dst])
    edge = np.full(LIMITS.reach, -1)
    left, right = np.concatenate([edge, left, edge - 1]), np.concatenate([edge, right, edge - 1])
    total = np.zeros(len(pairs.src))
    for distance in range(-LIMITS.reach, LIMITS.reach + 1):
        if distance:
            total += left[pairs.src + LIMITS.reach + distance] == right[pairs.dst + LIMITS.reach + distance]
    return total / (2 * LIMITS.reach)
