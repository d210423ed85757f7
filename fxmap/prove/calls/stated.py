"""Stated: values of the types that a signature states for an argument, one after the other.

>>> from typing import Literal
>>> stated_values(Literal["sum", "mean"] | None, (), ())
['sum', 'mean']
>>> stated_values(tuple[int, int], (), ())
[(1, 1), (2, 3)]

Cost: none; each is one run of both models, on small inputs.
"""

import types
from collections.abc import Sequence
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

import torch
from torch import Tensor

from fxmap.model.restoring import let_through
from fxmap.prove.calls.other_values import other_values

_SIMPLE: dict[Any, list[Any]] = {
    bool: [True, False],
    int: [1, 2, 3, 5, 0],
    float: [0.5, 2.0, 0.0],
    complex: [1 + 1j],
    slice: [slice(1, None), slice(None, -1)],
    range: [range(2), range(1, 4)],
    bytes: [b"ab"],
    torch.dtype: [torch.int32, torch.float32],
}
# How many words are tried.
_WORDS = 6


def stated_values(hint: Any, words: Sequence[str], tensors: Sequence[Tensor]) -> list[Any]:
    """Return values of a type.

    Args:
        hint: the type, as an annotation states it.
        words: of which one is given where a word is wanted.
        tensors: of which one is given where a tensor in a container is wanted.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return [value for value in inner if value is not None]
    if origin in (Union, types.UnionType):
        return [value for part in inner for value in stated_values(part, words, tensors)]
    if origin in (list, tuple, set, frozenset) or getattr(origin, "__name__", "") == "Sequence":
        return _containers(origin, inner, words, tensors)
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    if hint is str:
        return list(words[:_WORDS])
    return _of_class(hint, words) if isinstance(hint, type) else []


def _containers(origin: Any, inner: Sequence[Any], words: Sequence[str], tensors: Sequence[Tensor]) -> list[Any]:
    """Return containers of values: as many as a tuple states, one and two in others."""
    kind = origin if origin in (tuple, set, frozenset) else list
    columns = [list(tensors) if part is Tensor else stated_values(part, words, tensors) for part in inner if part is not ...]
    if not columns or not all(columns):
        return []
    if kind is tuple and ... not in inner:
        return [tuple(column[min(place * i, len(column) - 1)] for i, column in enumerate(columns, 1)) for place in range(2)]
    values = columns[0]
    return [kind(values[:1]), kind([*values[:2], *values[:1]][:2]), kind(values[1:3])]


def _of_class(kind: type, words: Sequence[str]) -> list[Any]:
    """Return the members of an enumeration, or objects of options as they are made and with one of them changed."""
    if issubclass(kind, Enum):
        return list(kind)
    if not is_dataclass(kind) and not hasattr(kind, "_fields"):
        return []
    try:
        made = kind()
    except Exception as error:  # a class that cannot be made without arguments, or refuses it
        let_through(error)
        return []
    return [*other_values(made, words), made]
