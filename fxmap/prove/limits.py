"""Limits: the integers in models and in their code at which behaviour may change, such as the length of a window.

A window, a number of positions, the length from which on scores are scaled: two models that differ beyond such a number
agree on all shorter inputs. Nothing in a model says which of its numbers is one, so all are candidates.

>>> limits_of(nn.LocalResponseNorm(7), nn.Sequential())
[7]

Cost: linear in the modules, and in the code of their forwards.
Source: constants of the code under test as inputs, Fraser and Arcuri, The seed is strong, 2012, doi:10.1109/ICST.2012.92.
"""

from collections.abc import Iterator
from inspect import isfunction, unwrap
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

# Larger numbers are no lengths.
_LARGEST = 100_000
# How many calls deep functions are read.
_DEPTH = 3


def limits_of(*models: nn.Module) -> list[int]:
    """Return the integers that models, their configurations and the code of their forwards hold, as candidates."""
    found: set[int] = set()
    for model in models:
        holders = [vars(module) for module in model.modules()]
        holders += [
            dict(vars(kind)) for kind in {type(module) for module in model.modules()} if not _is_torch(kind.__module__)
        ]
        holders += [vars(value) for holder in holders for value in holder.values() if hasattr(value, "to_dict")]
        values = [value for holder in holders for value in holder.values()]
        values += [part for value in values if isinstance(value, dict) for part in value.values()]
        for function in _functions(model, values):
            values += [function.__globals__.get(name) for name in function.__code__.co_names]
            values += _constants(function.__code__)
        found.update(value for value in values if type(value) is int and 1 < value < _LARGEST)
    return sorted(found)


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
        called += [cell.cell_contents for cell in function.__closure__ or ()]
        waiting += [(other, depth + 1) for other in called if isfunction(other)]


def _is_torch(module: str | None) -> bool:
    return (module or "").partition(".")[0] == "torch"


def _constants(code: CodeType) -> Iterator[Any]:
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _constants(value)
        else:
            yield from value if isinstance(value, tuple) else (value,)
