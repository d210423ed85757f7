"""Modules must correspond to modules: find matches of single keys that tear modules apart.

If a convolution is matched to one block and the norm beside it to another, hardly both are right. It is not known which of
them is wrong, so neither is kept.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from fxmap.matching.keys.entries import Entry

Module = tuple[str, ...]

# A pair is irregular if one of its names goes with another name at least this many times as often.
_OFTEN = 2


def torn_apart(pairs: Iterable[tuple[int, int]], src: Sequence[Entry], dst: Sequence[Entry]) -> set[tuple[int, int]]:
    """Return the pairs of entries whose modules do not correspond: each has parts in several modules of the other side.

    A module is here the smallest one that holds entries of several modules, such as a convolution with its norm. If one
    side has in one module the entries that the other has in several, or in a module inside that one, nothing is torn apart.

    >>> def side(*keys): return [Entry(key, tuple(key.split(".")), (2,), True) for key in keys]
    >>> src = side("a.conv.weight", "a.norm.weight", "b.conv.weight", "b.norm.weight")
    >>> dst = side("x.0.weight", "x.1.weight", "y.0.weight", "y.1.weight")
    >>> torn_apart([(0, 0), (1, 1), (2, 2), (3, 3)], src, dst)
    set()
    >>> sorted(torn_apart([(0, 0), (1, 3), (2, 2), (3, 1)], src, dst))
    [(0, 0), (1, 3), (2, 2), (3, 1)]
    """
    ours, theirs = _modules(src), _modules(dst)
    images: dict[Module, set[Module]] = defaultdict(set)
    sources: dict[Module, set[Module]] = defaultdict(set)
    found = list(pairs)
    for s, d in found:
        if src[s].floating and dst[d].floating:
            images[ours[s]].add(theirs[d])
            sources[theirs[d]].add(ours[s])
    apart = [{module for module in side if _are_several(side[module])} for side in (images, sources)]
    return {(s, d) for s, d in found if ours[s] in apart[0] and theirs[d] in apart[1]}


def irregular(pairs: Iterable[tuple[int, int]], src: Sequence[Entry], dst: Sequence[Entry]) -> set[tuple[int, int]]:
    """Return the pairs of entries whose names are matched much more often with other names.

    If entries called `a` in all blocks of one side correspond to `conv1` in those of the other, but one block has another
    pair, with an `a` of the right size left for `conv1`, order has misled, and the right match there is not known.

    >>> def side(*keys): return [Entry(key, tuple(key.split(".")), (2,), True) for key in keys]
    >>> src = side("0.a.weight", "1.a.weight", "2.a.weight", "2.p.weight")
    >>> dst = side("0.conv1.weight", "1.conv1.weight", "2.conv1.weight", "2.side.weight")
    >>> sorted(irregular([(0, 0), (1, 1), (2, 3), (3, 2)], src, dst))
    [(2, 3), (3, 2)]
    """
    found = sorted(pairs)
    ours, theirs = ([_kind(entry) for entry in side] for side in (src, dst))
    counts = Counter((ours[s], theirs[d]) for s, d in found)
    images, sources = _partners(counts), _partners(Counter({(d, s): count for (s, d), count in counts.items()}))

    used = ({s for s, _ in found}, {d for _, d in found})
    # Entries, by kind of name and size, that are matched irregularly or not at all.
    loose = {(0, ours[n], src[n].size) for n in range(len(src)) if n not in used[0]}
    loose |= {(1, theirs[n], dst[n].size) for n in range(len(dst)) if n not in used[1]}
    odd = []
    for s, d in found:
        here = _OFTEN * counts[ours[s], theirs[d]]
        usual = [(1, name, src[s].size) for name in _usual(images[ours[s]], here, theirs[d])]
        usual += [(0, name, dst[d].size) for name in _usual(sources[theirs[d]], here, ours[s])]
        if usual:
            odd.append((s, d, usual))
            loose |= {(0, ours[s], src[s].size), (1, theirs[d], dst[d].size)}
    return {(s, d) for s, d, usual in odd if not loose.isdisjoint(usual)}


def regular(
    known: Iterable[tuple[int, int]], wanted: Iterable[tuple[int, int]], src: Sequence[Entry], dst: Sequence[Entry]
) -> set[tuple[int, int]]:
    """Return those of the wanted pairs whose names are a known pair in several other blocks, and never otherwise.

    >>> def side(*keys): return [Entry(key, tuple(key.split(".")), (2,), True) for key in keys]
    >>> src, dst = (side(*(f"{n}.{name}.weight" for n in range(3))) for name in ("Conv_0", "conv1"))
    >>> regular([(0, 0), (1, 1)], [(2, 2)], src, dst)
    {(2, 2)}
    """
    counts = Counter((_kind(src[s]), _kind(dst[d])) for s, d in known)
    images, sources = Counter(one for one, _ in counts), Counter(other for _, other in counts)
    return {
        (s, d)
        for s, d in wanted
        for kinds in [(_kind(src[s]), _kind(dst[d]))]
        if counts[kinds] >= _OFTEN and images[kinds[0]] == 1 == sources[kinds[1]]
    }


def _differ_in_words(one: Module, other: Module) -> bool:
    """Whether names differ in more than numbers, which also differ if a block merely lacks its first layer."""
    return re.sub(r"\d+", "", ".".join(one)) != re.sub(r"\d+", "", ".".join(other))


def _partners(counts: Counter[tuple[Module, Module]]) -> dict[Module, Counter[Module]]:
    """Return, for each name, how often it is matched with which."""
    result: dict[Module, Counter[Module]] = defaultdict(Counter)
    for (one, other), count in counts.items():
        result[one][other] = count
    return result


def _usual(partners: Counter[Module], least: int, name: Module) -> list[Module]:
    """Return the names that are matched at least so often, and differ from `name` in words.

    There may be several: the number of a layer (`conv1`) looks like that of a block, and is left out.
    """
    return [other for other, count in partners.items() if count >= least and _differ_in_words(other, name)]


def _kind(entry: Entry) -> Module:
    """Return the last three names of an entry's path, without the number of its block."""
    block, *rest = entry.path[-3:]
    return (re.sub(r"\d+", "#", block) if len(rest) > 1 or block.isdigit() else block, *rest)


def _are_several(modules: set[Module]) -> bool:
    """Whether none of the modules holds all the others."""
    outer = min(modules, key=len)
    return any(module[: len(outer)] != outer for module in modules)


def _modules(entries: Sequence[Entry]) -> list[Module]:
    """Return for each entry the smallest module around it that has entries in several modules; () is the model itself."""
    owners: dict[Module, set[Module]] = defaultdict(set)
    for entry in entries:
        for depth in range(1, len(entry.path)):
            owners[entry.path[:depth]].add(entry.owner)
    return [
        next((entry.path[:depth] for depth in range(len(entry.path) - 1, 0, -1) if len(owners[entry.path[:depth]]) > 1), ())
        for entry in entries
    ]
