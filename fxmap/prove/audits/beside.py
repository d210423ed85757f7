"""Beside the tensors of an output: numbers, words, and tensors inside of objects, which a user reads as well.

>>> from types import SimpleNamespace
>>> output = torch.zeros(2), 3, SimpleNamespace(inner=SimpleNamespace(hidden=[torch.ones(1)]))
>>> [(name, value.tolist()) for name, value in beside_tensors(output)]
[('.1', 3.0), ('.2.inner.hidden.0', [1.0])]

Cost: linear in what the output holds, at most a few objects deep.
"""

from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

# How deep objects inside of objects are read.
_DEPTH = 4
_OPAQUE = type | torch.nn.Module | FunctionType | MethodType


def beside_tensors(output: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield what is beside the tensors of an output as float64, each with its place; tensors of objects as they are."""
    yield from _found(output, "", 0, set())


def _found(value: Any, name: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if depth:  # those outside of objects are outputs themselves
            yield name, value.detach()
    elif isinstance(value, str | int | float):
        if not depth:  # what an object holds beside tensors describes it
            yield name, _as_tensor(value)
    elif isinstance(value, set | frozenset):
        yield from _found(sorted(map(str, value)), name, depth, seen)
    else:
        for part, inner in _parts(value, depth, seen):
            yield from _found(inner, f"{name}.{part}", depth + _is_object(value), seen)


def _as_tensor(value: str | float) -> Tensor:
    return torch.tensor(list(value.encode()) if isinstance(value, str) else float(value), dtype=torch.float64)


def _is_object(value: Any) -> bool:
    return hasattr(value, "__dict__") and not isinstance(value, Mapping | list | tuple | _OPAQUE)


def _parts(value: Any, depth: int, seen: set[int]) -> Iterator[tuple[object, Any]]:
    if isinstance(value, Mapping):
        yield from list(value.items())
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif _is_object(value) and depth < _DEPTH and id(value) not in seen:
        seen.add(id(value))
        yield from list(vars(value).items())
