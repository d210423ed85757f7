"""Keys of the destination that may be exchanged without any effect, so that no checkpoint can tell them apart.

An exchange swaps whole branches of a network: every key of one goes to its counterpart in the other. So it may be left
undecided only as a whole: all keys of a branch must come from one branch of the source.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fxmap.matching.keys.entries import Entry

# For each key of one branch, the key of the other branch that it is swapped with.
Exchange = Mapping[str, str]


def orbits(entries: Sequence[Entry], exchanges: Iterable[Exchange]) -> NDArray[np.int64]:
    """Return the number of each entry's orbit: entries that exchanges map to one another have the same number.

    >>> entries = [Entry(key, (key,), (2,), True) for key in ("a", "b", "c", "d")]
    >>> orbits(entries, [{"a": "c"}, {"c": "d"}])
    array([0, 1, 0, 0])
    """
    first = {entry.key: entry.key for entry in entries}
    for exchange in exchanges:
        for one, other in exchange.items():
            joined = {first[one], first[other]}
            first.update({key: min(joined) for key, name in first.items() if name in joined})
    numbers: dict[tuple[str, object], int] = {}
    return np.array([numbers.setdefault((first[entry.key], entry.rows), len(numbers)) for entry in entries], np.int64)


def keeps_branches(exchange: Exchange, sources: Mapping[str, Entry]) -> bool:
    """Whether the keys of each branch come from one branch of the source, told apart by the same parts of their paths.

    >>> def sources(**paths): return {key: Entry(path, tuple(path.split(".")), (2,), True) for key, path in paths.items()}
    >>> exchange = {"a": "c", "b": "d"}
    >>> keeps_branches(exchange, sources(a="x.1.weight", b="x.1.bias", c="x.0.weight", d="x.0.bias"))
    True
    >>> keeps_branches(exchange, sources(a="x.1.weight", b="x.0.bias", c="x.0.weight", d="x.1.bias"))
    False
    """
    apart = set()
    for key, other in exchange.items():
        if key not in sources or other not in sources:
            continue
        ours, theirs = sources[key].path, sources[other].path
        depth = next((n for n, (one, two) in enumerate(zip(ours, theirs, strict=False)) if one != two), len(ours))
        apart.add((ours[: depth + 1], theirs[: depth + 1]))
    return len(apart) <= 1
