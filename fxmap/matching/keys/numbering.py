"""Numbering: layers that one side counts from another number are matched in order, and not by equal numbers.

A file may count from 1 what the destination counts from 0, or hold `layer2` to `layer5` for `layer1` to `layer4`. Equal
names would then match the second layer with the first, and put the last one at the other end. So, where both sides have a
list of the same name with as many members, and with the same shapes from member to member, the source's numbers are replaced
by the destination's.

>>> def side(start): return [Entry(f"{n}.w", (str(n), "w"), (2,), True) for n in range(start, start + 3)]
>>> found, shifts = renumbered(side(1), side(0))
>>> [entry.path[0] for entry in found], [shift.steady for shift in shifts]
(['0', '1', '2'], [True])

Cost: linear in the number of entries, times the depth of the names.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from fxmap.errors import shorten
from fxmap.mapping.findings import Note, NoteKind
from fxmap.matching.keys.entries import Entry
from fxmap.model.wrappers import Spelling, plain

_Family = tuple[tuple[str, ...], str]
_Members = dict[int, list[Entry]]


@dataclass(frozen=True, slots=True)
class Shift:
    """A list of layers whose numbers differ: the names of its members on both sides, in order.

    `steady` says that all numbers differ by the same amount, or that no number of one side is that of another layer of the
    other: then equal numbers are no argument against the order.
    """

    src: tuple[str, ...]
    dst: tuple[str, ...]
    steady: bool


def renumbered(src: Sequence[Entry], dst: Sequence[Entry]) -> tuple[list[Entry], list[Shift]]:
    """Return the source's entries under the numbers of the destination, and the lists whose numbers were changed."""
    result, shifts = list(src), []
    for depth in range(max((len(entry.path) for entry in src), default=1) - 1):
        ours, theirs = _families(result, depth), _families(dst, depth)
        names: dict[tuple[str, ...], str] = {}
        for family, members in ours.items():
            others = theirs.get(family, {})
            if len(members) > 1 and members.keys() != others.keys() and _contents(members) == _contents(others):
                numbers = [*zip(sorted(members), sorted(others), strict=True)]
                names |= {(*family[0], f"{family[1]}{one}"): f"{family[1]}{other}" for one, other in numbers}
                shifts.append(_shift(family, numbers))
        result = [_renamed(entry, depth, names) for entry in result]
    return result, shifts


def spelled_alike(spelling: Spelling) -> dict[str, str]:
    """Return the names of keys with one prefix for a whole list, where equal numbers have it for some members only.

    >>> from fxmap.model.wrappers import spell
    >>> keys, wanted = [f"net.{n}.w" for n in (1, 2, 3)], [f"{n}.w" for n in (0, 1, 2)]
    >>> list(spelled_alike(spell(keys, wanted)).values())
    ['1.w', '2.w', '3.w']
    """
    spelled = {re.sub(r"\d+", "#", key) for key, name in spelling.names.items() if key != name}
    names, used = {}, {*spelling.names.values()}
    for key, name in spelling.names.items():
        other = spelling.root.apply(plain(key)) if key == name and re.sub(r"\d+", "#", key) in spelled else name
        names[key] = name if other in used else other
    return names


def notes(shifts: Iterable[Shift]) -> Iterator[Note]:
    """Yield a note for each kind of shift: one that equal numbers contradict is a matter of layout, to be looked at."""
    for steady in (True, False):
        found = list(dict.fromkeys(_shown(shift) for shift in shifts if shift.steady == steady))
        if found:
            text = f"the numbering of layers differs, and they are taken in order: {shorten(found)}"
            doubt = "; some numbers are those of other layers on the other side, which names do not explain: check them"
            yield Note(text if steady else text + doubt, NoteKind.NUMBERING if steady else NoteKind.LAYOUT)


def _shown(shift: Shift) -> str:
    return f"{shift.dst[0]} to {shift.dst[-1]} from {shift.src[0]} to {shift.src[-1]}"


def _families(entries: Sequence[Entry], depth: int) -> dict[_Family, _Members]:
    """Return, for the modules that differ in nothing but a number at the end of their name, their entries by that number."""
    found: dict[_Family, _Members] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        number = re.search(r"(?<!\d)(?:0|[1-9]\d*)$", entry.path[depth]) if depth < len(entry.path) - 1 else None
        if number is not None:
            stem = entry.path[depth][: number.start()]
            found[entry.path[:depth], stem][int(number.group())].append(entry)
    return found


def _contents(members: _Members) -> list[Hashable]:
    """Return what each member of a list holds, in order: the last names and the sizes of its tensors."""
    return [
        tuple(sorted((entry.leaf, entry.size) for entry in members[number] if entry.floating)) for number in sorted(members)
    ]


def _shift(family: _Family, numbers: Sequence[tuple[int, int]]) -> Shift:
    above, stem = family
    ours, theirs = ([".".join((*above, f"{stem}{pair[side]}")) for pair in numbers] for side in (0, 1))
    taken = {other for _, other in numbers}
    steady = len({one - other for one, other in numbers}) == 1 or all(a == b or a not in taken for a, b in numbers)
    return Shift(tuple(ours), tuple(theirs), steady)


def _renamed(entry: Entry, depth: int, names: dict[tuple[str, ...], str]) -> Entry:
    name = names.get(entry.path[: depth + 1]) if len(entry.path) > depth + 1 else None
    return entry if name is None else replace(entry, path=(*entry.path[:depth], name, *entry.path[depth + 1 :]))
