"""Places: where the modules of a replica keep their tensors, found once for all of its runs.

>>> norm = nn.BatchNorm1d(1, affine=False)
>>> places = Places.of(nn.Sequential(norm, norm))
>>> [path for path in places.slots if path.endswith("mean")], [path for path, _ in places.buffers]
(['0.running_mean', '1.running_mean'], ['0.running_mean', '0.running_var', '0.num_batches_tracked'])

Cost: linear in the number of modules.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

# A module's table of tensors, and the name of one in it.
Slot = tuple[dict[str, Tensor | None], str]


@dataclass(frozen=True)
class Places:
    """The places of a replica's tensors, which its own code may change during a run, and `unchanged` puts back.

    Attributes:
        slots: the places, by every path that a tensor has; none if the module is `scripted`.
        buffers: the buffers, each by its first path.
        scripted: whether modules of TorchScript keep tensors elsewhere.
    """

    slots: Mapping[str, Slot]
    buffers: tuple[tuple[str, Tensor], ...]
    scripted: bool

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Find the places of a module's tensors."""
        slots: dict[str, Slot] = {}
        scripted = any(isinstance(part, torch.jit.ScriptModule) for part in module.modules())
        for path, part in () if scripted else module.named_modules(remove_duplicate=False):
            tables: tuple[dict[str, Tensor | None], ...] = (part._parameters, part._buffers)
            slots |= {f"{path}.{name}" if path else name: (table, name) for table in tables for name in table}
        return cls(slots, tuple(module.named_buffers()), scripted)

    def take(self, tensors: Mapping[str, Tensor]) -> bool:
        """Put tensors into the modules, by path, inside a block of `unchanged`; return False if one has no place there."""
        if self.scripted or not tensors.keys() <= self.slots.keys():
            return False
        for path, tensor in tensors.items():
            table, name = self.slots[path]
            table[name] = tensor
        return True
