"""Doubts: matches by name and shape that may still be wrong. Some keys are left open, others are mapped with a warning.

A tensor of the same name and shape may hold other numbers if one side has merged another tensor into it, or orders its parts
differently: a folded norm, a class token with its position added, a gate before or behind the values that it gates. Such
keys stay open, with the reason. If a choice of layout inside a tensor leaves no trace in names (rotary embeddings in halves
or pairs; q, k and v one after the other or head by head), the key is mapped, and a note names the keys to check.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from fxmap.errors import shorten
from fxmap.mapping.findings import Note, NoteKind
from fxmap.matching.keys.entries import Entry
from fxmap.matching.keys.vocabulary import is_gated, order_named, says, says_rotary

Pair = tuple[Entry, Entry]

_FOLDED = (
    "the source has a batch norm behind this layer, and the destination has none: it must be folded, which needs its eps: "
    "give the source's model (src=)"
)
_GATED = "one name says that a gate is joined with what it gates, the other does not say in which order: give the models"
_CLASS = (
    "the source's positions have a row more than the destination's: that of the class token, which is to be added to it: "
    "give the source's model (src=)"
)
_ORDER = "the two names say that q, k and v are joined in different orders: split them by hand, or give the models"
_SPREAD = (
    "one name says a variance, and the other a standard deviation or its inverse, whose eps is not known: compute the "
    "variance yourself, or give the source's model (src=)"
)
_GAIN = "a weight of a norm under a name of its own: whether 1 is to be taken off it, names do not tell: give the models"

_DEVIATION = frozenset(["std", "stddev", "stdev", "sd", "sigma", "rstd", "invstd", "istd"])
_INVERSE = frozenset(["inv", "inverse", "invstd", "istd", "rstd", "rsqrt", "r", "invvar", "precision"])


def withheld(pairs: Sequence[Pair], src: Sequence[Entry], dst: Sequence[Entry]) -> dict[str, str]:
    """Return the keys of the destination whose match is wrong, or may well be, each with the reason.

    >>> whole, joined = (Entry(key, tuple(key.split(".")), (4, 2), True) for key in ("w.weight", "gate_up.weight"))
    >>> withheld([(joined, whole)], [joined], [whole])["w.weight"][:42]
    'one name says that a gate is joined with w'
    """
    result = dict.fromkeys(_folded(pairs, src, dst), _FOLDED)
    for source, entry in pairs:
        for holds, reason in (
            (_differ_in_gate, _GATED),
            (_is_other_gain, _GAIN),
            (_differ_in_order, _ORDER),
            (_is_other_spread, _SPREAD),
        ):
            if holds(source, entry):
                result[entry.key] = reason
        if says(entry.path).get("token") == "class" and _has_longer_positions(src, dst):
            result[entry.key] = _CLASS
    return result


def _differ_in_gate(source: Entry, entry: Entry) -> bool:
    """Whether the name of one of two tensors says gate and up, and that of the other does not."""
    if len(source.path) < 2 or len(entry.path) < 2:
        return False
    gated = [any(is_gated(part) for part in one.path[-2:]) for one in (source, entry)]
    return gated[0] != gated[1]


def _is_other_gain(source: Entry, entry: Entry) -> bool:
    """Whether a vector is called `weight` on one side, and has a name of a single letter on the other."""
    leaves = {source.leaf, entry.leaf}
    return len(entry.size) == 1 and "weight" in leaves and any(len(leaf) == 1 and leaf.isalpha() for leaf in leaves)


def _differ_in_order(source: Entry, entry: Entry) -> bool:
    """Whether the names of two whole joined projections say different orders of q, k and v."""
    if source.rows is not None or entry.rows is not None or len(source.path) < 2 or len(entry.path) < 2:
        return False
    orders = {order_named(one.path[-2]) for one in (source, entry)} - {()}
    return len(orders) == 2


def _is_other_spread(source: Entry, entry: Entry) -> bool:
    """Whether only one of two tensors is called a standard deviation, or only one an inverse, beside a norm's variance."""
    if not {source.leaf, entry.leaf} & {"running_var", "running_std"}:
        return False
    ours, theirs = (set(re.findall(r"[a-z]+", one.leaf.lower())) for one in (source, entry))
    return any(bool(ours & words) != bool(theirs & words) for words in (_DEVIATION, _INVERSE))


def _has_longer_positions(src: Sequence[Entry], dst: Sequence[Entry]) -> bool:
    ours, theirs = ([e.size for e in side if says(e.path).get("embedding") == "position"] for side in (src, dst))
    return any(
        len(one) == len(other) == 2 and one[1] == other[1] and one[0] == other[0] + 1 for one in ours for other in theirs
    )


def _folded(pairs: Iterable[Pair], src: Sequence[Entry], dst: Sequence[Entry]) -> Iterator[str]:
    """Yield the keys of layers that have a bias only in the destination, if the source has an unmatched batch norm."""
    pairs = list(pairs)
    left = _norms(src, {source.key for source, _ in pairs})
    if not left or _norms(dst, set()):
        return
    biases = {entry.owner: entry for entry in dst if entry.leaf == "bias"}
    has_bias = {entry.owner for entry in src if entry.leaf == "bias"}
    for source, entry in pairs:
        bias = biases.get(entry.owner)
        if entry.leaf == "weight" and bias is not None and source.owner not in has_bias and bias.shape in left:
            yield from (entry.key, bias.key)


def _norms(entries: Sequence[Entry], but: set[str]) -> set[tuple[int, ...]]:
    return {entry.shape for entry in entries if entry.leaf == "running_var" and entry.key not in but}


def warnings(pairs: Sequence[Pair], src: Sequence[Entry], dst: Sequence[Entry], *, turns: bool = True) -> Iterator[Note]:
    """Yield notes about the layout of mapped tensors: of kind LAYOUT where names cannot confirm it, and shapes neither.

    `turns` says that the destination may have rotary embeddings.
    """
    renamed = [(source, entry) for source, entry in pairs if source.path != entry.path and entry.leaf == "weight"]
    if any(_is_rotary(entry) for entry in (*src, *dst)) or (turns and not any(map(_is_position, (*src, *dst)))):
        turned = list(_keys(renamed, lambda source, entry: _role(entry) in ("q", "k") and len(entry.size) == 2))
        if turned:
            yield Note(
                f"rotary embeddings turn the channels of q and k in halves or in pairs, which names do not tell: if the two "
                f"sides differ, these have the wrong order of rows: {shorten(turned)}",
                NoteKind.LAYOUT,
            )
    weights = [(source, entry) for source, entry in pairs if entry.leaf == "weight"]
    joined = list(_keys(weights, _is_cut))
    if joined:
        yield Note(
            "q, k and v, or a gate and what it gates, are taken to be joined one after the other; names do not tell whether "
            f"they are joined head by head or interleaved: {shorten(joined)}",
            NoteKind.LAYOUT,
        )
    kernels = list(_keys(pairs, _is_foreign))
    if kernels:
        yield Note(
            "kernels of the source are stored with their outputs last, or with heads in an axis of their own, as in "
            f"TensorFlow, Keras and Flax, and are turned: {shorten(kernels)}",
            NoteKind.KERNELS,
        )


def _keys(pairs: Iterable[Pair], holds: Callable[[Entry, Entry], bool]) -> Iterator[str]:
    yield from dict.fromkeys(entry.key for source, entry in pairs if holds(source, entry))


def _role(entry: Entry) -> str:
    return says(entry.path).get("attention", "")


def _is_cut(source: Entry, entry: Entry) -> bool:
    """Whether a joined projection is split, assembled, or used whole under another name."""
    cut = any(one.rows is not None and _in_parts(one) for one in (source, entry))
    return cut or (source.path != entry.path and "qkv" in (_role(source), _role(entry)))


def _in_parts(entry: Entry) -> bool:
    """Whether an entry is a part of a joined projection (q, k, v, gate or up), and not one of several experts."""
    return entry.path[-2] in ("q", "k", "v", "gate", "up")


def _is_foreign(source: Entry, entry: Entry) -> bool:
    return len(source.axes) > 2 or (source.flat is not None and source.rows is None)


def _is_rotary(entry: Entry) -> bool:
    return says_rotary(entry.key)


def _is_position(entry: Entry) -> bool:
    return says(entry.path).get("embedding") == "position" or "relative" in entry.key
