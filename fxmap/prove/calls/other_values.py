"""Other values of what a model is given that is no tensor: numbers, switches, words, several of them, options in objects.

>>> other_values(1.0, ()), other_values([3, 3], ())[:3]
([3.0, -1.0, 0.5, 0.0, 107.0, -107.0], [[4, 2], [3, 2, 1], [6]])
>>> other_values(slice(1, None), ())[:2], other_values({"causal": False}, ())
([slice(2, None, None), slice(1, 3, None)], [{'causal': True}])

Cost: none; each is one run of both models, on small inputs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum, Flag
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import Tensor

from fxmap.model.inputs import is_plain
from fxmap.model.nested import changed, leaves
from fxmap.model.restoring import let_through
from fxmap.prove.calls.several_values import lists_like

_Others = Callable[[Any, Sequence[str], Sequence[float]], Sequence[Any]]
# Words of which torch's functions take any in the place of another: code that hands one on names no other.
_FAMILIES = (
    ("nearest", "bilinear", "bicubic", "area", "nearest-exact", "linear", "trilinear"),
    ("constant", "reflect", "replicate", "circular"),
    ("zeros", "border", "reflection"),
    ("none", "mean", "sum", "max"),
    ("relu", "gelu", "silu", "tanh"),
)
# How many words that code looks up are tried, members of an enumeration, and of several values how many others.
_WORDS, _MEMBERS, _LISTS = 6, 6, 14
# How many numbers that code names are tried in the place of a whole number, and how large they may be.
_NAMED, _LARGE = 4, 1000
# Numbers without a sign hold those below this at least.
_UNSIGNED = 256


def other_values(value: Any, words: Sequence[str], numbers: Sequence[float] = ()) -> list[Any]:
    """Return other values of the kind of one that is no tensor; none for a kind of which nothing is known.

    Args:
        value: what is given.
        words: what code compares with, in the place of a word.
        numbers: what code names, in the place of a whole number.
    """
    try:
        return _others_of(value, words, numbers)
    except Exception as error:  # whatever a class of the user raises when it is made anew
        let_through(error)
        return []


def _others_of(value: Any, words: Sequence[str], numbers: Sequence[float]) -> list[Any]:
    for kinds, others in _KINDS:
        if isinstance(value, kinds):
            return list(others(value, words, numbers))
    if type(value).__module__ == "numpy":
        return list(_arrays(value, words))
    if callable(value) and not isinstance(value, type | torch.nn.Module):
        return [function for function in (torch.sin, torch.relu) if function is not value]
    return _of_parts(value, words) if _holds_options(value) else []


def is_option(one: Any, other: Any) -> bool:
    """Whether two models get one value, of a kind that has others.

    >>> is_option(3, 3), is_option(3, 4), is_option(slice(1), slice(1)), is_option(None, None)
    (True, False, True, False)
    """
    if type(one) is not type(other) or isinstance(one, Tensor) or not other_values(one, ("?",)):
        return False
    try:
        return one is other or bool(one == other)
    except (TypeError, ValueError, RuntimeError):
        return False  # several values have no single answer


def _flags(value: bool, words: Sequence[str], numbers: Sequence[float]) -> list[Any]:
    return [not value]


def _members(value: Enum, words: Sequence[str], numbers: Sequence[float]) -> list[Any]:
    every: list[Any] = [member for member in type(value) if member is not value][:_MEMBERS]
    if isinstance(value, Flag):
        every += [other for other in (~type(value)(0), type(value)(0)) if other != value and other not in every]
    return every


def _texts(value: str, words: Sequence[str], numbers: Sequence[float]) -> list[Any]:
    family = [word for words_alike in _FAMILIES if value in words_alike for word in words_alike]
    return [other for other in dict.fromkeys((*words[:_WORDS], *family, "?")) if other != value]


def _several(value: Any, words: Sequence[str], numbers: Sequence[float]) -> list[Any]:
    if not value:
        return [type(value)(parts) for parts in (*([word] for word in words[:2]), [0], [1], [1, 0])]
    if hasattr(value, "_fields") or not is_plain(value):
        return _of_parts(value, words)
    held = sorted(value, key=str) if isinstance(value, set | frozenset) else list(value)
    found = [type(value)(parts) for parts in lists_like(held, words, other_values)]
    return [other for i, other in enumerate(found) if other != value and other not in found[:i]][:_LISTS]


def _integers(value: int, words: Sequence[str], numbers: Sequence[float]) -> list[Any]:
    named = [int(number) for number in numbers if float(number).is_integer() and abs(number) <= _LARGE][:_NAMED]
    beside = [number + by for number in named for by in (0, 1)]
    found = (value + 1, 0, 1, 2, value + 7, value - 1, value - 2, *beside)
    return [type(value)(other) for other in dict.fromkeys(found) if other != value]


def _reals(value: float, words: Sequence[str], numbers: Sequence[float]) -> list[Any]:
    # Far below 0 as well, and beside the bounds that code names, of either sign.
    named = [sign * (abs(number) + 1) for number in numbers if 0 < abs(number) <= _LARGE for sign in (-1, 1)]
    found = (2 * value + 1, -value or -1.0, value / 2, 0.0, 100 * value + 7, -100 * abs(value) - 7, *named[: 2 * _NAMED])
    return [type(value)(other) for other in dict.fromkeys(found) if other != value]


def _numbers(value: Any, words: Sequence[str], numbers: Sequence[float]) -> Sequence[Any]:
    """Return others of a number of Python; those of numpy may be of its classes."""
    others: _Others = _integers if isinstance(value, int) else _reals if isinstance(value, float) else _complex
    return others(value, words, numbers)


def _complex(value: complex, words: Sequence[str], numbers: Sequence[float]) -> list[Any]:
    return [other for other in (value + 1j, 2 * value + 1, value.conjugate(), 0j) if other != value]


def _bytes(value: bytes, words: Sequence[str], numbers: Sequence[float]) -> list[Any]:
    return [type(value)(other) for other in (value + b"?", value[:-1], value[::-1]) if other != value]


def _slices(value: slice, words: Sequence[str], numbers: Sequence[float]) -> list[Any]:
    start, stop, step = value.start, value.stop, value.step
    found = (
        slice((start or 0) + 1, stop, step), slice(start, (start or 0) + 2 if stop is None else None, step),
        slice(start, -1, step), slice(start, stop, 2 if step in (None, 1) else None), slice(None), slice(-2, None),
    )  # fmt: skip
    return [other for other in found if other != value]


def _ranges(value: range, words: Sequence[str], numbers: Sequence[float]) -> list[Any]:
    start, stop, step = value.start, value.stop, value.step
    found = (
        range(start, stop + step, step), range(start + step, stop + step, step), range(start, stop + 2 * step, 2 * step),
        range(start, stop - step, step), value[::-1],
    )  # fmt: skip
    return [other for other in found if other != value]


def _dtypes(value: torch.dtype, words: Sequence[str], numbers: Sequence[float]) -> list[Any]:
    return [other for other in (torch.int32, torch.int64, torch.float32) if other != value]


def _tensors(value: Tensor, words: Sequence[str], numbers: Sequence[float]) -> list[Any]:
    """Return others of a tensor that is a default: turned round, and rising."""
    if value.dtype is torch.bool:
        return [~value]
    turned = value.flip(tuple(range(value.dim())))
    rising = torch.arange(value.numel()).reshape(value.shape)
    return [value + 0.1 * rising, turned] if value.is_floating_point() else [turned, value + 1, rising]


def _arrays(value: Any, words: Sequence[str]) -> Iterator[Any]:
    """Yield other numbers and arrays of numpy, of the class and the kind of one."""
    if not hasattr(value, "dtype") or value.dtype.kind not in "biufc":
        return
    if value.ndim == 0:
        kept = [other for other in other_values(value.item(), words) if value.dtype.kind != "u" or 0 <= other < _UNSIGNED]
        yield from (value.dtype.type(other) for other in kept)
    elif value.size:
        first = value.copy()
        first.flat[0] = not first.flat[0] if value.dtype.kind == "b" else first.flat[0] + 1
        yield from (first, value[::-1].copy())
        yield ~value if value.dtype.kind == "b" else value + value.dtype.type(1)
        yield value[:-1].copy()


def _of_parts(value: Any, words: Sequence[str]) -> list[Any]:
    """Return a container or an object of options with one of them changed, the first other value of each in turn."""
    held = [(path, other_values(leaf, words)) for path, leaf in leaves(value, whole=lambda _, part: is_plain(part))]
    rows = zip_longest(*([(path, other) for other in others] for path, others in held if path))
    return [_with(value, *pair) for pair in chain.from_iterable(rows) if pair is not None][:_LISTS]


def _with(value: Any, place: Any, other: Any) -> Any:
    return changed(
        value, lambda path, leaf: other if path == place else leaf, whole=lambda path, part: bool(path) and is_plain(part)
    )


def _holds_options(value: Any) -> bool:
    if isinstance(value, type | torch.nn.Module) or value is None:
        return False
    return isinstance(value, Mapping) or is_dataclass(value) or any(path for path, _ in leaves(value))


# The first that fits counts: a switch is an integer, and a member of an enumeration may be a word.
_KINDS: tuple[tuple[Any, _Others], ...] = (
    (Enum, _members),
    (bool, _flags),
    (str, _texts),
    (bytes | bytearray, _bytes),
    (tuple | list | set | frozenset, _several),
    (Tensor, _tensors),
    (slice, _slices),
    (range, _ranges),
    (torch.dtype, _dtypes),
    (int | float | complex, _numbers),
)
