"""Nested values: what the arguments of a model hold, in containers and inside of objects, down to tensors and plain values.

A batch may be a dict, a `BatchEncoding`, a dataclass, or an object with tensors and their mask. Whoever reads its tensors
and whoever changes them has to meet the same ones, in the same order.

>>> from types import SimpleNamespace
>>> batch = SimpleNamespace(ids=torch.tensor([1]), lengths=[3, 4])
>>> [(path, leaf) for path, leaf in leaves({"batch": batch})]
[(("['batch']", '.ids'), tensor([1])), (("['batch']", '.lengths', '[0]'), 3), (("['batch']", '.lengths', '[1]'), 4)]
>>> changed([batch], lambda path, leaf: leaf * 2)[0].lengths
[6, 8]

Cost: linear in what is held.
"""

import copy
import enum
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.model.restoring import let_through

Path = tuple[str, ...]
Change = Callable[[Path, Any], Any]
Whole = Callable[[Path, Any], bool]

# How deep values are read: containers and objects inside of each other.
_DEPTH = 8
# What is no holder of values, but one itself.
_OPAQUE = (
    Tensor,
    str,
    bytes,
    int,
    float,
    type(None),
    type,
    nn.Module,
    types.ModuleType,
    enum.Enum,
    torch.Generator,
    torch.Size,
    weakref.ref,
    BaseException,
)
# Modules whose classes are machinery, and no holders of a user's values; `types` has SimpleNamespace.
_MACHINERY = frozenset({"builtins", "torch", "numpy", "pathlib", "logging", "threading", "re", "datetime", "decimal"})


def leaves(value: Any, path: Path = (), *, whole: Whole = lambda path, value: False) -> Iterator[tuple[Path, Any]]:
    """Yield what nested values hold, each with its place: keys in brackets, attributes behind a point.

    `whole` says which containers are yielded as they are.
    """
    parts = None if whole(path, value) else _parts(value, path)
    if parts is None:
        yield path, value
        return
    for step, _, part in parts:
        yield from leaves(part, (*path, step), whole=whole)


def changed(value: Any, change: Change, path: Path = (), *, whole: Whole = lambda path, value: False) -> Any:
    """Return nested values with every leaf changed; containers and objects are new, and of their own classes."""
    parts = None if whole(path, value) else _parts(value, path)
    if parts is None:
        return change(path, value)
    found = [(key, changed(part, change, (*path, step), whole=whole)) for step, key, part in parts]
    return _rebuilt(value, found)


def _parts(value: Any, path: Path) -> list[tuple[str, Any, Any]] | None:
    """Return the parts of a container or an object: their places in words, keys and values; None for all other values."""
    if isinstance(value, _OPAQUE) or len(path) > _DEPTH:
        return None
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", key, part) for key, part in value.items()]
    if isinstance(value, list | tuple):
        names = getattr(value, "_fields", None)
        steps = [f".{name}" for name in names] if names else [f"[{i}]" for i in range(len(value))]
        return [(step, i, part) for i, (step, part) in enumerate(zip(steps, value, strict=False))]
    held = _attributes(value)
    return None if held is None else [(f".{name}", name, part) for name, part in held.items()]


def _attributes(value: Any) -> dict[str, Any] | None:
    """Return the attributes of an object that holds values, and that can be copied; None for all others."""
    if callable(value) or type(value).__module__.partition(".")[0] in _MACHINERY or _copied(value) is None:
        return None
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    held = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})
    return held or None


def _slots(kind: type) -> tuple[str, ...]:
    found = vars(kind).get("__slots__", ())
    names = (found,) if isinstance(found, str) else tuple(found)
    return tuple(name for name in names if not name.startswith("__"))


def _copied(value: Any) -> Any:
    try:
        return copy.copy(value)
    except Exception as error:  # a class of the user whose objects cannot be copied: it stays whole
        let_through(error)
        return None


def _rebuilt(value: Any, found: list[tuple[Any, Any]]) -> Any:
    """Return a container or an object like another one with these parts, by their keys."""
    if type(value) is dict:
        return dict(found)
    if isinstance(value, list | tuple):
        parts = [part for _, part in found]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    copied = _copied(value)
    if isinstance(value, Mapping):
        if not hasattr(copied, "__setitem__"):
            return dict(found)
        for key, part in found:
            copied[key] = part
        return copied
    for name, part in found:
        object.__setattr__(copied, name, part)
    return copied
