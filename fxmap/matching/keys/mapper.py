"""Map two state dicts by their keys alone, if there is no graph: a guess, and reported as one.

Idea: if both sides have the same names, apart from wrappers such as `module.`, these decide. Otherwise keys are made
comparable (`entries`: joined projections split, matrices transposed alike) and matched (`matching`). A match is kept only
if the choice was clear: a margin over the best other choice, modules that correspond to modules (`coherence`), and no sign
that the two tensors hold different numbers (`doubts`). The other keys stay open, with their candidates.

Example and cost: see `map_by_name`, and `fxmap.matching.keys.matching` for the algorithm and its sources.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from fxmap.errors import shorten
from fxmap.expressions.base import Expression, Source
from fxmap.mapping.findings import NAMES_ALONE, Findings, Mismatch, Note, NoteKind
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status
from fxmap.matching.keys.by_order import undecided, warning
from fxmap.matching.keys.coherence import irregular, regular, torn_apart
from fxmap.matching.keys.companions import completed
from fxmap.matching.keys.doubts import warnings, withheld
from fxmap.matching.keys.entries import Entry, compose, entries_of, is_unordered
from fxmap.matching.keys.exchanges import Exchange
from fxmap.matching.keys.layouts import comparable
from fxmap.matching.keys.lists import is_sorted, natural
from fxmap.matching.keys.matching import Match, Matches, match_entries
from fxmap.matching.keys.normed import parted
from fxmap.matching.keys.numbering import notes as notes_of_numbering
from fxmap.matching.keys.numbering import renumbered, spelled_alike
from fxmap.matching.keys.weights import WEIGHTS
from fxmap.model.tensors import is_whole
from fxmap.model.tied import tied
from fxmap.model.wrappers import Spelling, spell

_UNKNOWN: Mapping[str, int] = MappingProxyType({})


def map_by_name(
    src: Mapping[str, Any],
    dst: Mapping[str, Any],
    why: str,
    *,
    notes: Collection[Note] = (),
    unread: Collection[str] = (),
    exchanges: Sequence[Exchange] = (),
    calls: Mapping[str, int] = _UNKNOWN,
    turns: bool = True,
) -> KeyMapping:
    """Map two state dicts by their key trees: shapes, names, and the order of the file.

    Keys for which another assignment fits about as well stay open: they are `missing`, and `knowledge.reasons` lists their
    candidates. All mapped keys are `guessed`.

    Args:
        src, dst: the state dicts; their values are not read.
        why: the reason why there is no graph, for the report.
        notes: further notes for the report.
        unread: destination keys that the destination is known not to read.
        exchanges: pairs of destination keys that may be swapped without any effect.
        calls: for destination keys, the place in the destination's graph at which they are read first.
        turns: whether the destination may turn q and k by rotary embeddings.

    Cost: see `fxmap.matching.keys.matching`; a few seconds for a thousand keys.

    >>> import torch
    >>> src = {"module.fc.weight": torch.zeros(3, 2), "module.fc.bias": torch.zeros(3)}
    >>> mapping = map_by_name(src, {"head.weight": torch.ones(3, 2), "head.bias": torch.ones(3)}, "no model")
    >>> mapping.renames
    {'head.weight': 'module.fc.weight', 'head.bias': 'module.fc.bias'}
    >>> mapping.status("head.bias")
    <Status.GUESSED: 'guessed'>
    """
    spelling = spell(src, dst)
    found = _by_spelling(src, dst, spelling) or _by_matching(src, dst, spelling, exchanges, calls, turns=turns)
    _tie(dst, found)
    used = {source for expression in found.expressions.values() for source in expression.sources()}
    replaced = {mismatch.source for mismatch in found.mismatched}
    statuses = {key: _status(key, found) for key in dst}
    knowledge = Findings(
        statuses=statuses,
        unexpected=tuple(key for key in src if key not in used | replaced),
        mismatched=tuple(found.mismatched),
        unread=tuple(key for key in dst if key in unread),
        reasons={key: reason for key, reason in found.reasons.items() if key not in found.expressions},
        notes=(
            Note(f"no graph: keys are matched by shapes, names and order, and not proven: {why}", NoteKind.NO_GRAPH),
            *([Note(f"wrappers: {spelling.note}", NoteKind.WRAPPERS)] if spelling.note else []),
            *notes,
            *found.notes,
        ),
        rungs=(NAMES_ALONE, NAMES_ALONE),
        by_order=tuple(key for key in dst if key in found.by_order),
    )
    return KeyMapping({key: found.expressions[key] for key in dst if key in found.expressions}, knowledge)


@dataclass
class _Found:
    """The results so far for the destination's keys, by key.

    `kept` are the keys that need no source, `by_order` those of which only the order of the file says which is which.
    """

    expressions: dict[str, Expression] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    mismatched: list[Mismatch] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    notes: list[Note] = field(default_factory=list)
    by_order: set[str] = field(default_factory=set)


def _status(key: str, found: _Found) -> Status:
    if key in found.expressions:
        return Status.GUESSED
    if any(mismatch.key == key for mismatch in found.mismatched):
        return Status.MISMATCHED
    return Status.KEPT if key in found.kept else Status.MISSING


def _by_spelling(src: Mapping[str, Any], dst: Mapping[str, Any], spelling: Spelling) -> _Found | None:
    """Map equal names, apart from wrappers, if every tensor of the destination then has a source of its shape; else None."""
    back = {name: key for key, name in spelling.names.items()}
    tensors = {key: value for key, value in dst.items() if isinstance(value, Tensor)}
    if not tensors or not all(key in back and _same_shape(src[back[key]], value) for key, value in tensors.items()):
        return None
    return _Found({key: Source(back[key]) for key in tensors})


def _same_shape(one: Any, other: Tensor) -> bool:
    return isinstance(one, Tensor) and one.shape == other.shape


def _by_matching(
    src: Mapping[str, Any],
    dst: Mapping[str, Any],
    spelling: Spelling,
    exchanges: Sequence[Exchange],
    calls: Mapping[str, int],
    *,
    turns: bool,
) -> _Found:
    ours, theirs = entries_of(src, spelled_alike(spelling)), entries_of(dst)
    sorted_sides = [is_unordered(side) or is_sorted([entry.key for entry in side]) for side in (ours, theirs)]
    for side, by_name in zip((ours, theirs), sorted_sides, strict=True):
        if by_name:
            side.sort(key=lambda entry: natural(entry.key))
    ours, theirs = comparable(ours, theirs)
    ours, shifts = renumbered(ours, theirs)
    ties = [{keys[0]: other} for keys in tied(dst) for other in keys[1:]]
    matches = match_entries(ours, theirs, (*exchanges, *ties), by_name=any(sorted_sides))
    doubts = withheld([(ours[match.src], theirs[match.dst]) for match in matches.matches], ours, theirs)
    clear = [*_clear(ours, theirs, matches)]
    by_order = [(ours[match.src], theirs[match.dst]) for match in clear if match.told < WEIGHTS.margin_sorted]
    doubts |= undecided([pair for pair in by_order if pair[1].key not in doubts], [*src], calls)
    pairs = [(match.src, match.dst) for match in clear]
    parts: dict[str, list[tuple[Entry, Entry]]] = defaultdict(list)
    for one, other in (*pairs, *completed(pairs, ours, theirs)):
        if theirs[other].key not in doubts:
            parts[theirs[other].key].append((theirs[other], ours[one]))
    made = {key: compose(tuple(value.shape), parts[key]) for key, value in dst.items() if key in parts}
    found = _Found({key: expression for key, expression in made.items() if expression is not None})
    _explain(dst, src, spelling, (ours, theirs, matches), doubts, found)
    mapped = [(source, entry) for key, of in parts.items() if key in found.expressions for entry, source in of]
    found.notes.extend((*warnings(mapped, ours, theirs, turns=turns), *notes_of_numbering(shifts)))
    left = {entry.key: (source, entry) for source, entry in by_order if entry.key in found.expressions}
    found.by_order = {*left}
    if left:
        found.notes.append(Note(warning([*left.values()]), NoteKind.BY_ORDER))
    return found


def _clear(ours: list[Entry], theirs: list[Entry], matches: Matches) -> Iterator[Match]:
    """Yield the matches with a large enough margin over all other choices, and whose modules correspond as a whole."""
    needed = WEIGHTS.margin + (WEIGHTS.margin_without_order - WEIGHTS.margin) * (1 - matches.order)
    module = WEIGHTS.module_margin if matches.order < WEIGHTS.little_order else -math.inf
    if matches.by_name:
        needed, module = WEIGHTS.margin_sorted, WEIGHTS.module_margin_sorted
    chosen = [(match.src, match.dst) for match in matches.matches]
    torn = torn_apart(chosen, ours, theirs) | irregular(chosen, ours, theirs) | parted(chosen, ours, theirs)
    sure = [match for match in matches.matches if match.margin >= needed and (match.src, match.dst) not in torn]
    clear = [match for match in sure if match.module_margin >= module]
    # What is clear in other blocks needs less of a margin here.
    nearly = [(match.src, match.dst) for match in sure if module / 2 <= match.module_margin < module]
    alike = regular([(match.src, match.dst) for match in clear], nearly, ours, theirs) if nearly else ()
    yield from (match for match in sure if match in clear or (match.src, match.dst) in alike)


def _explain(
    dst: Mapping[str, Any],
    src: Mapping[str, Any],
    spelling: Spelling,
    matched: tuple[list[Entry], list[Entry], Matches],
    doubts: Mapping[str, str],
    found: _Found,
) -> None:
    """Add a reason to `found`, with the candidates, for every key that has no expression."""
    ours, theirs, matches = matched
    back = {name: key for key, name in spelling.names.items()}
    places = defaultdict(list)
    for number, entry in enumerate(theirs):
        places[entry.key].append(number)
    for key, value in dst.items():
        if key in found.expressions or not isinstance(value, Tensor):
            continue
        nearest = dict.fromkeys(str(ours[n].read()) for place in places[key] for n in matches.nearest(place))
        # A key may be the empty string.
        other = src[back[key]] if key in back else None
        if key in doubts:
            found.reasons[key] = doubts[key]
        elif is_whole(value):
            found.kept.add(key)
            found.reasons[key] = "a counter or a table of integers, for which no source stands out"
        elif isinstance(other, Tensor) and other.numel() != value.numel():
            found.mismatched.append(Mismatch(key, back[key], tuple(other.shape), tuple(value.shape)))
        elif nearest:
            order = "; the keys are sorted by name, so that their order tells nothing" if matches.by_name else ""
            found.reasons[key] = f"open: no clear choice among {shorten(list(nearest), 3)}{order}"
        else:
            found.reasons[key] = f"no source tensor has the shape {list(value.shape)}, nor as its rows or parts"
    opened = [key for key in found.reasons if key not in found.kept]
    if opened:
        text = (
            f"{len(opened)} keys are open: see knowledge.reasons for their candidates, and map them by hand "
            "(fxmap.KeyMapping(dict(mapping) | {key: source_key})), or give the source's model, which decides by structure"
        )
        found.notes.append(Note(text, NoteKind.OPEN_KEYS))


def _tie(dst: Mapping[str, Any], found: _Found) -> None:
    """Give all keys of a tied tensor the same source: the first that was found."""
    for keys in tied(dst):
        made = next((found.expressions[key] for key in keys if key in found.expressions), None)
        if made is not None:
            found.expressions.update(dict.fromkeys(keys, made))
            text = f"tied in the destination, and made from one source: {shorten(keys)}"
            found.notes.append(Note(text, NoteKind.TIED_KEYS))
