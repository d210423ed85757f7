"""Classes of models: what they hold for all their objects, such as a counter or a table that is computed once.

A replica is of the user's own class, so that what its forward writes there stays: a table of the float64 in which a proof
runs would be found by the user's model, which runs in float32.

>>> class Counting(nn.Module):
...     calls, tables = 0, {}
>>> steps = class_data([Counting()])
>>> Counting.calls += 1
>>> Counting.tables["cos"] = 1.0
>>> for step in steps:
...     step()
>>> Counting.calls, Counting.tables
(0, {})

Cost: linear in the number of modules.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

_DATA = (bool, int, float, complex, str, bytes, tuple, frozenset, list, dict, set, type(None), Tensor)


def class_data(models: Iterable[nn.Module]) -> list[Callable[[], object]]:
    """Return the steps that put back the data in the classes of all modules of models; classes of torch are left."""
    kinds = dict.fromkeys(kind for model in models for part in model.modules() for kind in type(part).__mro__)
    own = [kind for kind in kinds if kind is not object and kind.__module__.partition(".")[0] != "torch"]
    return [functools.partial(_put_back, kind, {name: (v, _contents(v)) for name, v in _data(kind).items()}) for kind in own]


def _data(kind: type) -> dict[str, Any]:
    """Return the attributes of a class that are data: numbers, text, tensors and containers."""
    return {name: v for name, v in vars(kind).items() if isinstance(v, _DATA) and not name.startswith("__")}


def _contents(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _numbers(value)
    return type(value)(value) if type(value) in (list, dict, set) else None


def _numbers(value: Tensor) -> Tensor | None:
    """Return a copy of a plain tensor, which code may write to in place."""
    if type(value) not in (Tensor, nn.Parameter) or value.layout is not torch.strided or value.is_meta:
        return None
    with unset_fake_temporarily(), torch.no_grad():
        return value.detach().clone()


def _put_back(kind: type, before: dict[str, tuple[Any, Any]]) -> None:
    for name in _data(kind):
        if name not in before:
            delattr(kind, name)
    for name, (value, contents) in before.items():
        if vars(kind).get(name) is not value:
            setattr(kind, name, value)
        if isinstance(value, Tensor):
            _put_back_numbers(value, contents)
        elif contents is not None and _differs(value, contents):
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(contents)


def _put_back_numbers(value: Tensor, before: Tensor | None) -> None:
    if before is None:
        return
    with unset_fake_temporarily(), torch.no_grad():
        if value.shape != before.shape or value.dtype != before.dtype:
            value.data = before
        elif not torch.equal(value, before):
            value.copy_(before)


def _differs(value: Any, contents: Any) -> bool:
    """Whether a container holds other objects than before; their own comparison may be anything, as that of tensors."""
    if isinstance(value, dict):
        return list(map(id, value)) != list(map(id, contents)) or _differs([*value.values()], [*contents.values()])
    return list(map(id, value)) != list(map(id, contents))
