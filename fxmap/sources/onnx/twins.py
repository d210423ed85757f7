"""Tensors that an exporter wrote twice: a matrix that several layers share, and what is held as it is in another shape.

A layer that is called twice, or a head that shares the matrix of the embedding, reads one parameter. The exporter lays it
out anew for each operator, and names the copies by itself. Of a recurrent layer that starts with zeros, all that its first
step adds is its bias. Read as one, other weights leave them equal as well.

>>> table = torch.arange(6.0).view(3, 2)
>>> found = twins({"embedding.weight": table, "val_3": table.t(), "val_7": table.view(1, 3, 2), "mask": torch.ones(3, 2)})
>>> print(*found.items(), sep="\\n")
('val_3', Twin(of='embedding.weight', shape=(2, 3), is_turned=True))
('val_7', Twin(of='embedding.weight', shape=(1, 3, 2), is_turned=False))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from fxmap.sources.onnx.roles import is_computed

# With fewer different numbers, two tensors may be equal by chance: masks, and weights that nothing has trained.
_NUMBERS = 3


@dataclass(frozen=True, slots=True)
class Twin:
    """The name of the tensor that another one is, in its shape, or is the transpose of."""

    of: str
    shape: tuple[int, ...]
    is_turned: bool = False

    def read(self, value: Tensor) -> Tensor:
        """Return the twin of a value."""
        if self.is_turned:
            return value.t()
        if value.numel() != prod(self.shape):
            return value.flatten().expand(self.shape)
        return value if value.shape == self.shape else value.reshape(self.shape)


def twins(values: Mapping[str, Tensor]) -> dict[str, Twin]:
    """Return, for tensors under names that an exporter made up, those that hold the same numbers, by the code's names first.

    Cost: one pass over the tensors, and a comparison where sizes and sums are equal.
    """
    groups: dict[tuple[object, ...], list[str]] = {}
    found: dict[str, Twin] = {}
    for name in sorted(values, key=is_computed):
        value = values[name]
        if not value.dim() or not value.is_floating_point():
            continue
        # One row that stands several times is that row. A sum depends on the order of its terms: these are of integers.
        row = value.flatten(0, -2)[0] if value.dim() > 1 and value.numel() else value
        core = row if is_computed(name) and torch.equal(row.expand(value.shape), value) else value
        alike = groups.setdefault((value.dtype, core.numel(), _sum(core)), [])
        others = alike if is_computed(name) else ()
        twin = next((one for other in others if (one := _twin(other, values[other], core, value.shape))), None)
        if twin is None:
            alike.append(name)
        elif _is_varied(value):
            found[name] = twin
    return found


def _sum(value: Tensor) -> int:
    return int(value.contiguous().view(torch.uint8).sum(dtype=torch.int64))


def _twin(name: str, other: Tensor, value: Tensor, shape: Sequence[int]) -> Twin | None:
    if torch.equal(other.flatten(), value.flatten()):
        return Twin(name, tuple(shape))
    turned = other.dim() == 2 and other.t().shape == value.shape and torch.equal(other.t(), value)
    return Twin(name, tuple(shape), is_turned=True) if turned else None


def _is_varied(value: Tensor) -> bool:
    return len(set(value.flatten()[:1000].tolist())) >= _NUMBERS
