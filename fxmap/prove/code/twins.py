"""Twins: two models that are built alike: of the same classes with the same attributes, and one function of weights.

>>> alike(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
True
>>> alike(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
False

Cost: linear in what the modules hold; tensors of the state dict are not read.
"""

from collections.abc import Collection
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.mapping.key_mapping import KeyMapping
from fxmap.matching.sides import Side
from fxmap.prove.code.turned import content

_PLAIN = (bool, int, float, complex, str, bytes, type(None), range, slice, torch.dtype, torch.device, torch.Size)
_TABLES = ("_parameters", "_buffers", "_modules", "training")


def alike(one: Any, other: Any) -> bool:
    """Whether two values are built alike: modules of equal classes and attributes, whatever their weights."""
    return _alike(one, other, set())


def is_one_function(mapping: KeyMapping, src: Side, dst: Side) -> bool:
    """Whether two models are built alike, and a mapping hands each key on to its own name."""
    same = [key for key, other in mapping.renames.items() if key.removeprefix(dst.prefix) == other.removeprefix(src.prefix)]
    return len(same) == len(mapping) and alike(src.model, dst.model)


def _alike(one: Any, other: Any, seen: set[tuple[int, int]]) -> bool:
    if one is other or (id(one), id(other)) in seen:
        return True
    if type(one) is not type(other):
        return False
    seen.add((id(one), id(other)))
    if isinstance(one, nn.Module):
        return _modules(one, other, seen)
    if isinstance(one, Tensor):
        return _tensors(one, other, values=not isinstance(one, nn.Parameter))
    if isinstance(one, _PLAIN):
        return bool(one == other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(_alike(one[key], other[key], seen) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_alike(a, b, seen) for a, b in zip(one, other, strict=True))
    if isinstance(one, FunctionType | MethodType | partial):
        return _functions(one, other, seen)
    if isinstance(one, Collection):
        return bool(one == other)
    return hasattr(one, "__dict__") and not callable(one) and _alike(vars(one), vars(other), seen)


def _modules(one: nn.Module, other: nn.Module, seen: set[tuple[int, int]]) -> bool:
    if isinstance(one, torch.jit.ScriptModule):
        return False
    ours, theirs = ({name: value for name, value in vars(m).items() if name not in _TABLES} for m in (one, other))
    tensors = [({**m._parameters, **m._buffers}, m._non_persistent_buffers_set) for m in (one, other)]
    (held, own), (others, _) = tensors
    return (
        _alike(ours, theirs, seen)
        and list(held) == list(others)
        and all(_held(held[name], others[name], values=name in own) for name in held)
        and list(one._modules) == list(other._modules)
        and all(_alike(child, other._modules[name], seen) for name, child in one._modules.items())
    )


def _held(one: Tensor | None, other: Tensor | None, *, values: bool) -> bool:
    return one is other if one is None or other is None else _tensors(one, other, values=values)


def _tensors(one: Tensor, other: Tensor, *, values: bool) -> bool:
    """Whether tensors are of one shape and dtype, and have equal values: a mapping hands on those of the state dict."""
    if one.shape != other.shape or one.dtype is not other.dtype:
        return False
    if not values or one.is_meta or other.is_meta:
        return one.is_meta is other.is_meta or not values
    return one.layout is other.layout is torch.strided and torch.equal(one, other)


def _functions(one: Any, other: Any, seen: set[tuple[int, int]]) -> bool:
    if isinstance(one, partial):
        return _alike((one.func, one.args, one.keywords), (other.func, other.args, other.keywords), seen)
    if isinstance(one, MethodType):
        return one.__func__ is other.__func__ and _alike(one.__self__, other.__self__, seen)
    cells = [[content(cell) for cell in function.__closure__ or ()] for function in (one, other)]
    return (
        one.__code__ is other.__code__
        and _alike(cells[0], cells[1], seen)
        and _alike((one.__defaults__, one.__kwdefaults__), (other.__defaults__, other.__kwdefaults__), seen)
    )
