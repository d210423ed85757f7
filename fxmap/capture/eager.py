"""Eager: what code computes from stored tensors while it is traced, without a proxy that the graph would know of.

torch.fx gives proxies for parameters that are read as attributes. Code that gets at them in another way (`parameters()`, a
dict of the user's own), or that computes with a buffer, computes numbers at once, and the trace would keep these as
constants: the graph would say that the tensors are not read.

>>> import torch
>>> weight = torch.ones(2)
>>> with Eager({id(weight): "weight"}) as eager:
...     doubled, other = weight * 2, torch.zeros(2) + 1
>>> eager.origin(doubled), eager.origin(other)
('weight', '')

Cost: a Python call for each operation on tensors that are no proxies, of which a trace has few.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fxmap.model.dispatch import DispatchMode
from fxmap.model.tensors import tensors_of


class Eager(DispatchMode):
    """Notes which tensors are computed from floating-point ones that are known, whose ids and paths are given."""

    def __init__(self, paths: Mapping[int, str]) -> None:
        super().__init__()
        self.paths = paths
        self._origins: dict[int, str] = {}
        # Ids are those of objects that live.
        self._alive: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note its results."""
        results = func(*args, **(kwargs or {}))
        operands = tensors_of([args, dict(kwargs or {})])
        origin = next((name for operand in operands if (name := self._known(operand))), "")
        if origin:
            for result in tensors_of([results]):
                self._origins[id(result)] = origin
                self._alive.append(result)
        return results

    def origin(self, tensor: Tensor) -> str:
        """Return the path of a tensor that another one was computed from; empty where it was not."""
        return self._origins.get(id(tensor), "")

    def _known(self, tensor: Tensor) -> str:
        path = self.paths.get(id(tensor), "") if tensor.is_floating_point() else ""
        return path or self._origins.get(id(tensor), "")
