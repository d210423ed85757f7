"""Selecting: what rewritten code calls where it selects, which notes what was selected, or selects otherwise.

>>> selector = Selector()
>>> with selector:
...     item(("file", 0), ["one", "other"], False)
'one'
>>> selector.seen[("file", 0)]
Seen(selected={0}, options={0: 'one', 1: 'other'})
>>> with Selector({("file", 0): 1}):
...     item(("file", 0), ["one", "other"], False)
'other'

Cost: a few microseconds for each place that is passed.
Source: as in `selections`.
"""

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.model.restoring import begin, finish
from fxmap.prove.code.decisions import is_size

Place = tuple[str, int]
# Containers of more elements are tables of data, of which no choice is made.
_MOST = 64
_ABSENT = "nothing"


@dataclass
class Seen:
    """What was selected at a place, and what could have been, by the key that selects it."""

    selected: set[Hashable] = field(default_factory=set)
    options: dict[Hashable, Any] = field(default_factory=dict)


@dataclass
class Selector:
    """Watches selections inside of a `with` block, in this thread; at the places in `forced`, another one is made."""

    forced: Mapping[Place, Hashable] = field(default_factory=dict)
    seen: dict[Place, Seen] = field(default_factory=dict)

    def __enter__(self) -> "Selector":
        """Begin to watch."""
        self._back = partial(setattr, _CURRENT, "selector", _CURRENT.selector)
        begin(self._back)
        _CURRENT.selector = self
        return self

    def __exit__(self, *raised: Any) -> None:
        """End to watch."""
        finish(self._back)

    def at(self, place: Place, selected: Hashable, options: Mapping[Any, Any]) -> Hashable:
        """Note a selection, and return the one to make."""
        seen = self.seen.setdefault(place, Seen())
        seen.selected.add(selected)
        if len(seen.options) < _MOST:
            seen.options.update(options)
        other = self.forced.get(place, selected)
        return other if other in options else selected


class _Current(threading.local):
    selector: Selector | None = None


_CURRENT = _Current()


def item(place: Place, container: Any, key: Any) -> Any:
    """Return an element of a container by its key."""
    selector = _CURRENT.selector
    options = None if selector is None or is_size(key) else _elements(container)
    if selector is None or options is None:
        return container[key]
    number = isinstance(key, int) or (isinstance(key, Tensor) and not key.dim() and not key.is_floating_point())
    selected = int(key) % max(len(options), 1) if number and not _is_mapping(container) else key
    try:
        hash(selected)
    except TypeError:
        return container[key]
    if isinstance(selected, Tensor):
        return container[key]
    other = selector.at(place, selected, options)
    return container[key] if other is selected else options[other]


def cut(place: Place, container: Any, start: Any, stop: Any, step: Any) -> Any:
    """Return a part of a sequence."""
    selector, part = _CURRENT.selector, slice(start, stop, step)
    lists = isinstance(container, list | tuple | nn.ModuleList | nn.Sequential) and not isinstance(container, torch.Size)
    if selector is None or not lists or any(map(is_size, (start, stop, step))) or len(container) > _MOST:
        return container[part]
    found = container[part]
    counts = {count: None for count in (0, 1, 2, len(container)) if count <= len(container)}
    other = selector.at(place, len(found), counts)
    return found if other == len(found) else container[: int(str(other))]


def get(place: Place, container: Any, key: Any, *default: Any) -> Any:
    """Return what `get` returns."""
    selector = _CURRENT.selector
    if selector is None or not isinstance(container, Mapping) or len(container) > _MOST:
        return container.get(key, *default)
    options = {**container, _ABSENT: None}
    selected = key if key in container else _ABSENT
    other = selector.at(place, selected, options)
    return container.get(key if other == selected else other, *default)


def attribute(place: Place, holder: Any, name: str, *default: Any) -> Any:
    """Return an attribute by its name."""
    found, selector = getattr(holder, name, *default), _CURRENT.selector
    if selector is None:
        return found
    other = selector.at(place, name, _others_like(holder, found))
    return found if other == name else getattr(holder, str(other))


def turns(place: Place, *args: Any) -> range:
    """Return a range, which is as long as it says, or of another length."""
    found, selector = range(*args), _CURRENT.selector
    if selector is None or any(map(is_size, args)):
        return found
    counts = dict.fromkeys(count for count in (0, 1, 2, len(found) + 1))
    other = selector.at(place, len(found), counts)
    count = int(str(other))
    return found if count == len(found) else range(found.start, found.start + count * found.step, found.step)


def flag(place: Place, value: Any) -> Any:
    """Return a truth value, or the other one."""
    selector = _CURRENT.selector
    if selector is None or type(value) is not bool:
        return value
    return selector.at(place, value, {True: None, False: None})


def other(place: Place, key: int, count: int) -> bool:
    """Whether code is to go another way than it would, of so many."""
    selector = _CURRENT.selector
    return selector is not None and selector.at(place, None, dict.fromkeys((None, *range(count)))) == key


def noted(place: Place, key: int) -> None:
    """Note which way code went."""
    if _CURRENT.selector is not None:
        _CURRENT.selector.seen.setdefault(place, Seen()).selected.add(key)


def made(place: Place, kind: Any) -> BaseException:
    """Return an exception of a class, or of the first one of several."""
    while isinstance(kind, tuple):
        kind = kind[0]
    try:
        error = kind("selected")
    except Exception:  # whatever a class of exceptions asks for
        error = kind.__new__(kind)
    assert isinstance(error, BaseException)
    return error


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    function.__name__: function for function in (item, cut, get, attribute, turns, flag, other, noted, made)
}


def _is_mapping(container: Any) -> bool:
    return isinstance(container, Mapping | nn.ModuleDict | nn.ParameterDict)


def _elements(container: Any) -> dict[Hashable, Any] | None:
    """Return what a container holds, by key; None for tensors, words, sizes, and large containers."""
    if isinstance(container, Tensor | str | bytes | torch.Size | range) or not hasattr(container, "__len__"):
        return None
    if not (_is_mapping(container) or isinstance(container, Sequence | nn.ModuleList | nn.Sequential | nn.ParameterList)):
        return None
    if not 1 < len(container) <= _MOST:
        return None
    return dict(container.items()) if _is_mapping(container) else dict(enumerate(container))


def _others_like(holder: Any, found: Any) -> dict[Any, Any]:
    """Return the attributes of an object that are of the kind of one of them, by name."""
    if isinstance(holder, nn.Module):
        if isinstance(found, nn.Module):
            return dict(holder._modules)
        if isinstance(found, Tensor):
            return {**holder._parameters, **holder._buffers}
    if isinstance(found, MethodType):
        names = {
            name for kind in type(holder).__mro__ for name, value in vars(kind).items() if isinstance(value, FunctionType)
        }
        own = sorted(name for name in names if not name.startswith("__") and not hasattr(nn.Module, name))
        return dict.fromkeys(islice(own, _MOST))
    table = getattr(holder, "__dict__", {})
    return {name: value for name, value in islice(table.items(), _MOST) if type(value) is type(found)}
