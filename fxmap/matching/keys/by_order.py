"""Choices that nothing but an order makes: names, shapes and modules leave several sources for a key, and it takes the next.

Most files list their tensors as the model declares them, and most models declare their layers as they call them; then the
order is right. Nobody sees where it is not: the shapes fit. Such keys are therefore mapped with a warning. Where the order
itself is worth nothing, they stay open: the file is sorted by name, or the destination calls its layers in another order
than it declares them.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from fxmap.errors import shorten
from fxmap.matching.keys.entries import Entry
from fxmap.matching.keys.lists import natural

Pair = tuple[Entry, Entry]

_SORTED = (
    "nothing but the order of the file could tell {} apart, and the file is sorted by name: map them by hand, or give the "
    "source's model (src=)"
)
_CALLED = (
    "nothing but the order of the file could tell {} apart, and the destination calls them in another order than it "
    "declares them: map them by hand, or give the source's model (src=)"
)


def undecided(pairs: Sequence[Pair], file: Sequence[str], calls: Mapping[str, int]) -> dict[str, str]:
    """Return the destination keys that order cannot decide either, each with the reason.

    Args:
        pairs: the source and the destination entry of every choice that order makes.
        file: the keys of the source, in the order of the file.
        calls: for keys of the destination, the place in its graph at which they are read first.

    >>> def entry(name): return Entry(name, (name, "weight"), (2,), True)
    >>> pairs = [(entry("alpha"), entry("one")), (entry("beta"), entry("two"))]
    >>> list(undecided(pairs, ["alpha", "beta"], {})), list(undecided(pairs, ["beta", "alpha"], {}))
    (['one', 'two'], [])
    >>> list(undecided(pairs, ["beta", "alpha"], {"one": 1, "two": 0}))
    ['one', 'two']
    """
    result: dict[str, str] = {}
    by_name = list(file) in (sorted(file), sorted(file, key=natural))
    for group in _alike(pairs):
        sources = shorten(list(dict.fromkeys(source.key for source, _ in group)), 3)
        if by_name and len({_in_words(source) for source, _ in group}) > 1:
            result |= dict.fromkeys((entry.key for _, entry in group), _SORTED.format(sources))
        for key in _called_otherwise([entry.key for _, entry in group], calls):
            result.setdefault(key, _CALLED.format(sources))
    return result


def warning(pairs: Sequence[Pair]) -> str:
    """Return the sentence that names the keys of which only order decides which is which."""
    shown = shorten([f"{entry.key} from {source.key}" for source, entry in pairs])
    return (
        f"{len(pairs)} keys are decided by nothing but the order of the file: {shown}. Their names do not tell them apart, "
        "and their shapes are equal: if one of the two models lists its layers in another order than it calls them, these "
        "weights are exchanged, and nothing shows it. Give the model that the file was saved from (src=, with "
        "example_inputs= where its inputs cannot be inferred), which decides by structure; or compare an output that you "
        "know"
    )


def _alike(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Yield the choices among tensors of one size and one last name."""
    groups: dict[object, list[Pair]] = defaultdict(list)
    for source, entry in pairs:
        groups[entry.size, entry.leaf].append((source, entry))
    yield from groups.values()


def _in_words(entry: Entry) -> str:
    return re.sub(r"\d+", "#", ".".join(entry.path))


def _called_otherwise(keys: Sequence[str], calls: Mapping[str, int]) -> Iterator[str]:
    """Yield the keys whose place among all is another one by their calls than by their declaration."""
    declared = [key for key in dict.fromkeys(keys) if key in calls]
    called = sorted(declared, key=lambda key: calls[key])
    yield from (key for key, other in zip(declared, called, strict=True) if key != other)
