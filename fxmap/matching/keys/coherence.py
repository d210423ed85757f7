"""Modules must correspond to modules: what order or names suggest for single keys may break them apart.

A convolution that goes to one block and the norm beside it to another are hardly both right. Which of them is wrong, this
does not tell, so that neither is to be believed.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from fxmap.matching.keys.entries import Entry

Module = tuple[str, ...]


def torn_apart(pairs: Iterable[tuple[int, int]], src: Sequence[Entry], dst: Sequence[Entry]) -> set[tuple[int, int]]:
    """Return the pairs of entries whose modules do not correspond: each has parts in several modules of the other side.

    A module is here the smallest one that holds entries of several modules, such as a convolution with its norm. Where one
    side lists in one module what the other has in several, or in a module inside that one, nothing is torn apart.

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
