"""Limits: the integers in models and in their code at which behaviour may change, such as the length of a window.

A window, a number of positions, the length from which on scores are scaled: two models that differ beyond such a number
agree on all shorter inputs. Nothing in a model says which of its numbers is one, so all are candidates.

>>> limits_of(nn.LocalResponseNorm(7), nn.Sequential())
[7]

Cost: linear in the modules, and in the code of their forwards.
Source: constants of the code under test as inputs, Fraser and Arcuri, The seed is strong, 2012, doi:10.1109/ICST.2012.92.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import isfunction, unwrap
from types import CellType, CodeType, FunctionType
from typing import Any

import torch
from torch import nn

# Larger numbers are no lengths.
_LARGEST = 100_000
# The longest sequence of ids.
_IN_TURN = 8
_EMPTY = CellType()
# How many calls deep functions are read.
_DEPTH = 3


@dataclass(frozen=True)
class Held:
    """What models and the code of their forwards hold, read once.

    >>> Held((nn.LeakyReLU(0.25),)).numbers
    [0.25]
    """

    models: tuple[nn.Module, ...]

    @cached_property
    def _values(self) -> list[Any]:
        return list(_held(self.models))

    @cached_property
    def _code(self) -> list[Any]:
        return list(_in_code(self.models))

    @property
    def limits(self) -> list[int]:
        """The integers, as candidates for lengths."""
        return sorted({abs(value) for value in self._values if type(value) is int and 1 < abs(value) < _LARGEST})

    @property
    def numbers(self) -> list[float]:
        """The numbers that code names, as candidates for values; those of the modules come last."""
        found = dict.fromkeys(value for value in (*self._code, *self._values) if type(value) in (int, float))
        return [value for value in found if abs(value) <= _LARGEST and value not in (0, 1)]

    @property
    def fills(self) -> list[float]:
        """The finite numbers below -1e8 that code names: with these it fills scores that it masks."""
        found = (value for value in (*self._code, *self._values) if type(value) in (int, float))
        return sorted({float(value) for value in found if -math.inf < value <= -1e8})

    @property
    def words(self) -> list[str]:
        """The words, such as names of modes, as candidates; those of the code come first.

        >>> Held((nn.Upsample(scale_factor=2, mode="bilinear"),)).words
        ['Upsample', 'bilinear']
        """
        named = [value for value in self._code if type(value) is str and value.isidentifier()]
        held = sorted({value for value in self._values if type(value) is str and value.isidentifier()})
        return list(dict.fromkeys([*named, *held]))

    @property
    def sequences(self) -> list[tuple[int, ...]]:
        """The short sequences of whole numbers that code names, as candidates for ids in turn."""
        held = dict.fromkeys(value for value in _in_code(self.models, whole=True) if type(value) is tuple)
        return [value for value in held if 1 < len(value) <= _IN_TURN and all(type(part) is int for part in value)]


def limits_of(*models: nn.Module) -> list[int]:
    """Return the integers that models, their configurations and the code of their forwards hold, as candidates."""
    return Held(models).limits


def functions_of(*models: nn.Module) -> Iterator[FunctionType]:
    """Yield the user's functions that models run."""
    for model in models:
        yield from _functions(model, _distinct(vars(module) for module in model.modules()))


def _in_code(models: Sequence[nn.Module], *, whole: bool = False) -> Iterator[Any]:
    for function in functions_of(*models):
        yield from _constants(function.__code__, whole=whole)


def held_by(model: nn.Module) -> Iterator[Any]:
    """Yield what a model and the code of its forwards hold: modules, attributes, constants, functions by name.

    >>> "bilinear" in list(held_by(nn.Upsample(scale_factor=2, mode="bilinear")))
    True
    """
    yield from model.modules()
    yield from _held([model])


def _held(models: Sequence[nn.Module]) -> Iterator[Any]:
    for model in models:
        holders = [vars(module) for module in model.modules()]
        holders += [
            dict(vars(kind)) for kind in {type(module) for module in model.modules()} if not _is_torch(kind.__module__)
        ]
        holders += [vars(value) for value in _distinct(holders) if hasattr(value, "to_dict")]
        values = _distinct(holders)
        values += [part for value in values if isinstance(value, dict) for item in value.items() for part in item]
        for function in _functions(model, values):
            values += [function.__globals__.get(name) for name in function.__code__.co_names]
            values += _constants(function.__code__)
            values += [cell.cell_contents for cell in function.__closure__ or () if cell != _EMPTY]
        yield from values


def _distinct(holders: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Return all values once, and no empty table: most of what hundreds of modules hold is the same few objects."""
    found = {id(value): value for holder in holders for value in holder.values()}
    return [value for value in found.values() if not (isinstance(value, dict) and not value)]


def _functions(model: nn.Module, values: list[Any]) -> Iterator[FunctionType]:
    """Yield the user's functions that a model runs: forwards, functions that it holds, and those that these call by name."""
    forwards = {unwrap(type(module).forward) for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)}
    waiting = [(function, 0) for function in (*forwards, *values) if isfunction(function)]
    seen: set[FunctionType] = set()
    while waiting:
        function, depth = waiting.pop()
        if function in seen or _is_torch(function.__module__):
            continue
        seen.add(function)
        yield function
        called = [function.__globals__.get(name) for name in function.__code__.co_names] if depth < _DEPTH else []
        called += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        called += [cell.cell_contents for cell in function.__closure__ or () if cell != _EMPTY]
        waiting += [(other, depth + 1) for other in called if isfunction(other)]


def _is_torch(module: str | None) -> bool:
    return (module or "").partition(".")[0] == "torch"


def _constants(code: CodeType, *, whole: bool = False) -> Iterator[Any]:
    """Yield the constants of code, and of the functions inside of it; parts of sequences, or these as a `whole`."""
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _constants(value, whole=whole)
        elif whole:
            yield value
        else:
            yield from value if isinstance(value, tuple | frozenset) else (value,)
