"""Conditions: whether a choice of the code depends on the same things in two models.

Two models that run the same code may hold other values that its condition reads: a threshold, or a function that decides.

>>> from fxmap.prove.code.jumps import jumps_of
>>> class Above(nn.Module):
...     def __init__(self, limit):
...         super().__init__()
...         self.limit = limit
...     def forward(self, x, n):
...         return x if n > self.limit else -x
>>> (jump,) = jumps_of(Above.forward.__code__)
>>> is_one_condition(jump, (Above(5), Above(5))), is_one_condition(jump, (Above(5), Above(7)))
(True, False)

Cost: one pass over the functions of both models.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any

from torch import nn

from fxmap.prove.code.jumps import Jump
from fxmap.prove.code.turned import content, functions_with
from fxmap.prove.code.twins import alike

# Constants that stand in many a condition, whatever it asks.
_COMMON = (None, True, False, -1, 0, 1, 2)


def is_one_condition(jump: Jump, models: tuple[nn.Module, nn.Module]) -> bool:
    """Whether the attributes and functions that a condition reads are alike in two models that run its code."""
    ours, theirs = (list(_read(jump, model)) for model in models)
    return alike(ours, theirs)


def name_the_same(one: Jump, other: Jump) -> bool:
    """Whether two conditions name equal numbers and words, so that they may be the same in other words.

    What selects without a jump may take them from anywhere in its code: then those of a jump have to be among them.
    """
    if one.offset >= 0 and other.offset >= 0:
        return _named(one) == _named(other)
    return _named(one) <= _named(other) if other.offset < 0 else _named(other) <= _named(one)


def _named(jump: Jump) -> set[str]:
    return {repr(value) for value in _flat(jump.constants) if value not in _COMMON}


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """Yield values, and those of collections: a list of numbers may be made of each, or of all at once."""
    for value in values:
        yield from _flat(value) if isinstance(value, tuple | frozenset) else (value,)


def _read(jump: Jump, model: nn.Module) -> Iterator[Any]:
    """Yield what the condition may read of each module with the code, and of the functions that have it."""
    for module in model.modules():
        functions = functions_with(module, jump)
        if functions:
            yield dict(_attributes(vars(module), jump))
        for function in functions:
            if function.__code__ is jump.code:
                cells = zip(jump.code.co_freevars, function.__closure__ or (), strict=True)
                yield {name: _part(content(cell), jump) for name, cell in cells if name in jump.names}


def _attributes(table: Mapping[str, Any], jump: Jump) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that a condition reads; of an object that holds others, those that it reads of it."""
    for name in sorted(jump.attributes & table.keys()):
        yield name, _part(table[name], jump)


def _part(value: Any, jump: Jump) -> Any:
    if isinstance(value, nn.Module | FunctionType) or not hasattr(value, "__dict__"):
        return value
    inner = dict(_attributes(vars(value), jump))
    return inner or value
