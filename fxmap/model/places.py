"""Places: where a replica keeps its tensors, found once for all of its runs with other values.

>>> norm = nn.BatchNorm1d(1, affine=False)
>>> places = Places.of(nn.Sequential(norm, norm), {"0.running_mean": norm.running_mean})
>>> [path for path in places.slots if path.endswith("mean")], [path for path, _ in places.buffers]
(['0.running_mean', '1.running_mean'], ['0.running_mean', '0.running_var', '0.num_batches_tracked'])
>>> with places.holding({"0.running_mean": torch.ones(1)}):
...     print(norm.running_mean)
tensor([1.])

Cost: linear in the number of modules; each run then costs two assignments for every tensor.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from fxmap.model.memory import can_hold
from fxmap.model.replica import tables_of, unchanged
from fxmap.model.restoring import carry_out

# A module's table of tensors, and the name of one in it.
Slot = tuple[dict[str, Tensor | None], str]


@dataclass(frozen=True)
class Places:
    """The places of a replica's tensors, which its own code may change during a run, and `unchanged` puts back.

    Attributes:
        slots: the places in the modules, by every path that a tensor has; none if the replica is `scripted`.
        buffers: the buffers, each by its first path.
        objects: the tensor objects that can hold other values, each with its own values, by path.
        loose: the buffers that are none of these.
        modules: all modules.
        tables: the dicts that they hold beside their tensors.
        scripted: whether modules of TorchScript keep tensors elsewhere.
    """

    slots: Mapping[str, Slot]
    buffers: tuple[tuple[str, Tensor], ...]
    objects: Mapping[str, tuple[Tensor, Tensor]]
    loose: tuple[Tensor, ...]
    modules: tuple[nn.Module, ...]
    tables: tuple[dict[Any, Any], ...]
    scripted: bool

    @classmethod
    def of(cls, module: nn.Module, tensors: Mapping[str, Tensor]) -> Self:
        """Find the places of a module's tensors; of the given ones, which it may keep elsewhere too, also the objects."""
        slots: dict[str, Slot] = {}
        modules, buffers = tuple(module.modules()), tuple(module.named_buffers())
        scripted = any(isinstance(part, torch.jit.ScriptModule) for part in modules)
        for path, part in () if scripted else module.named_modules(remove_duplicate=False):
            tables: tuple[dict[str, Tensor | None], ...] = (part._parameters, part._buffers)
            slots |= {f"{path}.{name}" if path else name: (table, name) for table in tables for name in table}
        objects = {path: (tensor, tensor.data) for path, tensor in tensors.items() if can_hold(tensor)}
        held = {id(tensor) for tensor, _ in objects.values()}
        loose = tuple(buffer for _, buffer in buffers if id(buffer) not in held)
        return cls(slots, buffers, objects, loose, modules, tuple(tables_of(module)), scripted)

    @contextmanager
    def unchanged(self, module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Let the module's tensor objects hold other values in the `with` block; at its end all of it is as before."""
        with unchanged(module, self.loose, self.modules), self.holding(values):
            yield

    def take(self, tensors: Mapping[str, Tensor]) -> bool:
        """Put tensors into the modules, by path, inside a block of `unchanged`; return False if one has no place there."""
        if self.scripted or not tensors.keys() <= self.slots.keys():
            return False
        for path, tensor in tensors.items():
            table, name = self.slots[path]
            table[name] = tensor
        return True

    @contextmanager
    def holding(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Let the tensor objects hold other values, by path, inside the `with` block.

        So code sees them wherever it keeps the objects, as in a plain object or a list beside the modules' own tables.
        """
        changed: list[tuple[Tensor, Tensor]] = []
        try:
            # Every attribute of a tensor would be a Python call to what watches the functions of torch.
            with torch._C.DisableTorchFunction():
                for path, (tensor, own) in self.objects.items():
                    if (value := values.get(path)) is not None and can_hold(value):
                        changed.append((tensor, own))
                        tensor.data = value.detach() if value.requires_grad else value
            yield
        finally:
            with torch._C.DisableTorchFunction():
                carry_out(partial(setattr, tensor, "data", own) for tensor, own in changed)
