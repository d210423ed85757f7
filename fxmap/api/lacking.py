"""Keys that a source model reads and its file lacks: what to call them, and which keys of the file may be meant."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from fxmap.errors import shorten

# With so many of its keys in the file, a model is the file's, but for these keys.
_NEARLY_ALL = 0.5


def lacking_said(needed: Sequence[str], known: Mapping[str, Any], state: Mapping[str, Any], where: str, name: str) -> str:
    """Return the message on keys that a file lacks.

    Args:
        needed: the keys.
        known: the state dict of the source model.
        state: the weights of the file, under the keys of that model where it has them.
        where: the file.
        name: the class of the source model.

    >>> known = {"a": Tensor(2), "b.weight": Tensor(3), "c": Tensor(4)}
    >>> file = {"a": Tensor(2), "b.wieght": Tensor(3), "c": Tensor(4)}
    >>> lacking_said(["b.weight"], known, file, "f.pth", "Net").partition(". ")[0]
    'b.weight: src (Net) reads 1 key that f.pth lacks: b.weight is not in the file; b.wieght, of its shape, is left over'
    """
    count = f"{len(needed)} key{'s' * (len(needed) != 1)}"
    text = f"{shorten(needed)}: src ({name}) reads {count} that {where} lacks"
    ways = 'leave src out to match keys by names, or pass on_mismatch="keep" to keep the destination\'s own values there'
    shared = sum(key in state for key in known)
    if shared < _NEARLY_ALL * len(known):
        return (
            f"{text}, which has {len(state)} keys: src is not the model of this file. Nothing was written. Give the model "
            f"that it was saved from, {ways}"
        )
    pairs = [(key, _meant(key, known, state)) for key in needed]
    told = [f"{key} is not in the file; {other}, of its shape, is left over" for key, other in pairs if other]
    if told:
        key, other = next(pair for pair in pairs if pair[1])
        way = f'Rename it in the file (state["{key}"] = state.pop("{other}"))'
        held = f"{shared} of the {len(known)} keys of src are there"
        return f"{text}: {'; '.join(told[:2])}. {held}. Nothing was written. {way}, {ways}"
    return (
        f"{text}; it has the other {shared} of the {len(known)}. Nothing was written. Give a file that is whole, or the "
        f"model that it was saved from, {ways}"
    )


def _meant(key: str, known: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """Return the key of the file that src lacks, of the shape of a missing one, and with the closest name; else ""."""
    wanted = getattr(known.get(key), "shape", None)
    alike = [
        other
        for other, value in state.items()
        if other not in known and isinstance(value, Tensor) and tuple(value.shape) == tuple(wanted or ())
    ]
    return next(iter(get_close_matches(key, alike, n=1)), "")
