"""Match the entries of two key trees, by evidence that is strengthened in several rounds.

Idea: every pair of entries of equal size has a score from evidence on the pair alone (`scores`). Each round makes soft
matches from the scores, then counts, for every module and every kind of name, how many of the matches of its entries go to
one module, or one kind of name, of the other side (Dice's coefficient), and updates the scores of the pairs by that: entries
show that their blocks correspond, and all blocks together that `conv1` is called `convolution` (`groups`). At the end the
Hungarian method assigns the entries of each shape, and two margins measure how clear each choice is: the loss of an exchange
with any other pair, and its loss if the keys of whole modules were exchanged (`choice`). Evidence from modules and names
that occur once does not count in the second margin, since such an exchange would take it along.

>>> import torch
>>> from fxmap.matching.keys.entries import entries_of
>>> def side(*keys): return entries_of({key: torch.zeros(2) for key in keys})
>>> found = match_entries(side("conv1.bias", "norm1.bias"), side("a.convolution.bias", "a.norm.bias"))
>>> [(match.src, match.dst, match.margin > WEIGHTS.margin) for match in found.matches]
[(0, 0, True), (1, 1, True)]

Cost: time and memory grow with the number of considered pairs of equal shape (a bounded number for each shape), and with the
product of the numbers of keys for the order of the file.

Source: IBM's first alignment model, Brown et al. 1993, doi:10.5555/972470.972474; similarity flooding, Melnik et al. 2002,
doi:10.1109/ICDE.2002.994702.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from fxmap.matching.keys.choice import assigned, margins
from fxmap.matching.keys.entries import Entry
from fxmap.matching.keys.exchanges import Exchange, keeps_branches, orbits
from fxmap.matching.keys.groups import Groups, soft_matches
from fxmap.matching.keys.lists import Lists
from fxmap.matching.keys.order import in_order
from fxmap.matching.keys.scores import Candidates, Numbers, Scores, alone, candidates, order_is_evidence
from fxmap.matching.keys.weights import WEIGHTS


@dataclass(frozen=True, slots=True)
class Match:
    """A source entry for a destination entry, by index.

    `margin` is the loss of the best exchange with another match, `module_margin` its loss if all other keys of both modules
    were exchanged with it. `told` is that loss where no order counts, but for that of numbered lists: what names, shapes and
    modules alone say.
    """

    src: int
    dst: int
    margin: float
    module_margin: float
    told: float = 0.0


@dataclass(frozen=True)
class Matches:
    """All matches, and the scores that they come from; `by_name` says that a side is sorted by name."""

    matches: tuple[Match, ...]
    pairs: Candidates
    scores: Scores
    order: float
    by_name: bool = False

    def nearest(self, dst: int, limit: int = 3) -> list[int]:
        """Return the source entries with the best scores for a destination entry, best first."""
        of = np.flatnonzero(self.pairs.dst == dst)
        best = of[np.argsort(-self.scores[of], kind="stable")][:limit]
        return [int(number) for number in self.pairs.src[best]]


def match_entries(
    src: Sequence[Entry], dst: Sequence[Entry], exchanges: Sequence[Exchange] = (), *, by_name: bool = False
) -> Matches:
    """Match the entries of two key trees.

    `exchanges` are keys of the destination that can be swapped with one another, all of them at once, without any effect: a
    choice between them need not be decided. `by_name` says that a side was sorted by name: then order is evidence only for
    the modules of numbered lists.
    """
    pairs = candidates(src, dst)
    order = 0.0 if by_name else order_is_evidence(src, dst)
    if not len(pairs.src):
        return Matches((), pairs, np.zeros(0), order, by_name)
    lists = Lists(src, dst, _weights(src, dst)) if by_name else None
    lean: Scores | float = 0.0
    scores, shared = _strengthened(src, dst, pairs, order, lists)
    chosen, free = _assigned_freely(src, dst, pairs, scores, exchanges)
    if len(free) < len(exchanges):
        # No evidence tells two branches apart, and their keys were assigned at random: one key of each decides for the rest.
        first = {key for exchange in exchanges if exchange not in free for key in next(iter(exchange.items()))}
        lean = np.zeros(len(scores))
        lean[[pair for numbers in chosen for pair in numbers if dst[pairs.dst[pair]].key in first]] = WEIGHTS.lean
        scores, shared = _strengthened(src, dst, pairs, order, lists, lean)
        chosen, free = _assigned_freely(src, dst, pairs, scores, exchanges)
    orbit = orbits(dst, free)
    by_names, _ = _strengthened(src, dst, pairs, 0.0, Lists(src, dst, _weights(src, dst), named=True), lean)
    losses = [
        [margins(values, pairs, block, numbers, orbit) for values in (scores, shared, by_names)]
        for block, numbers in zip(pairs.blocks, chosen, strict=True)
    ]
    matches = [
        Match(int(pairs.src[pair]), int(pairs.dst[pair]), *map(float, found))
        for numbers, of_block in zip(chosen, losses, strict=True)
        for pair, *found in zip(numbers, *of_block, strict=True)
    ]
    return Matches(tuple(matches), pairs, scores, order, by_name)


def _assigned_freely(
    src: Sequence[Entry], dst: Sequence[Entry], pairs: Candidates, scores: Scores, exchanges: Sequence[Exchange]
) -> tuple[list[Numbers], list[Exchange]]:
    """Return the assigned pairs, by block, and the exchanges that have no effect on this assignment."""
    chosen = [assigned(scores, pairs, block) for block in pairs.blocks]
    sources = {dst[pairs.dst[pair]].key: src[pairs.src[pair]] for numbers in chosen for pair in numbers}
    return chosen, [exchange for exchange in exchanges if keeps_branches(exchange, sources)]


def _strengthened(
    src: Sequence[Entry],
    dst: Sequence[Entry],
    pairs: Candidates,
    order: float,
    lists: Lists | None,
    lean: Scores | float = 0.0,
) -> tuple[Scores, Scores]:
    """Return the scores of the last round, and their part that does not move along when whole modules are exchanged.

    Order is that of the `lists`, or that of the file where there are none. `lean` is added to the scores of pairs before
    soft matches are made.
    """
    own = alone(src, dst, pairs, order)
    weights = _weights(src, dst)
    modules = Groups([_modules(entry) for entry in src], [_modules(entry) for entry in dst], weights)
    owners = Groups([[entry.owner] for entry in src], [[entry.owner] for entry in dst], weights)
    kinds = Groups([_kinds(entry) for entry in src], [_kinds(entry) for entry in dst], weights)
    scores, soft = own, np.zeros(len(own))
    for number, sharpness in enumerate(WEIGHTS.sharpness):
        share = number / (len(WEIGHTS.sharpness) - 1)
        file_order = WEIGHTS.file_order[0] + (WEIGHTS.file_order[1] - WEIGHTS.file_order[0]) * share
        if lists is None:
            in_file = order * in_order(scores, pairs, file_order, WEIGHTS.block_order)
        else:
            in_file = WEIGHTS.list_order * lists.agreement(soft, pairs)
        soft = soft_matches(scores + lean + in_file, pairs, sharpness)
        scores = (
            own
            + WEIGHTS.modules * modules.agreement(soft, pairs)
            + WEIGHTS.module * share * owners.agreement(soft, pairs)
            + WEIGHTS.kinds * kinds.agreement(soft, pairs)
        )
    if lists is None:
        in_file = order * in_order(scores, pairs, WEIGHTS.file_order[1], WEIGHTS.block_order)
    else:
        in_file = WEIGHTS.list_order * lists.agreement(soft, pairs)
    above = Groups(_of_several(src, _ancestors), _of_several(dst, _ancestors), weights)
    common = Groups(_of_several(src, _kinds), _of_several(dst, _kinds), weights)
    shared = own + WEIGHTS.modules * above.agreement(soft, pairs) + WEIGHTS.kinds * common.agreement(soft, pairs)
    return scores + in_file, shared + in_file


def _weights(src: Sequence[Entry], dst: Sequence[Entry]) -> tuple[Scores, Scores]:
    """Return the weight of each entry as evidence for its module: the less, the more entries have its size."""
    counts = Counter(entry.size for side in (src, dst) for entry in side)
    ours, theirs = (np.array([counts[entry.size] ** -WEIGHTS.rarity for entry in side]) for side in (src, dst))
    return ours, theirs


def _of_several(entries: Sequence[Entry], groups: Callable[[Entry], list[Hashable]]) -> list[list[Hashable]]:
    """Return, for each entry, those of its groups that hold entries of several modules."""
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
    """Return the kinds of name of an entry, whichever layer it is in: the ends of its path, without and with numbers."""
    plain = tuple(re.sub(r"\d+", "#", part) for part in entry.path)
    return [
        *(plain[-length:] for length in range(1, min(len(plain), 4) + 1)),
        ("", *entry.path[-2:]),
        ("", *entry.path[-3:]),
    ]
