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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from fxmap.sources.onnx.spellings.roles import is_computed

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

    Cost: one pass over the tensors of those sizes which such a name has as well, and a comparison where sums are equal.
    """
    cores = {name: _core(name, value) for name, value in values.items() if value.dim() and value.is_floating_point()}
    sizes: dict[tuple[object, int], list[str]] = {}
    for name in sorted(cores, key=is_computed):
        sizes.setdefault((values[name].dtype, cores[name].numel()), []).append(name)
    found: dict[str, Twin] = {}
    for names in sizes.values():
        if len(names) > 1 and is_computed(names[-1]):  # others may be gigabytes in a file
            found |= dict(_of_one_size(names, values, cores))
    return found


def _core(name: str, value: Tensor) -> Tensor:
    """Return a tensor, or the row that stands in it several times."""
    if value.dim() < 2 or not value.numel() or not is_computed(name):
        return value
    rows = value.flatten(0, -2)
    return rows[0] if torch.equal(rows[-1], rows[0]) and torch.equal(rows[0].expand(value.shape), value) else value


def _of_one_size(
    names: Sequence[str], values: Mapping[str, Tensor], cores: Mapping[str, Tensor]
) -> Iterator[tuple[str, Twin]]:
    # A sum depends on the order of its terms: these are of integers.
    groups: dict[int, list[str]] = {}
    for name in names:
        value, core = values[name], cores[name]
        alike = groups.setdefault(_sum(core), [])
        others = alike if is_computed(name) else ()
        twin = next((one for other in others if (one := _twin(other, values[other], core, value.shape))), None)
        if twin is None:
            alike.append(name)
        elif _is_varied(value):
            yield name, twin


def _sum(value: Tensor) -> int:
    return int(value.contiguous().view(torch.uint8).sum(dtype=torch.int64))


def _twin(name: str, other: Tensor, value: Tensor, shape: Sequence[int]) -> Twin | None:
    if torch.equal(other.flatten(), value.flatten()):
        return Twin(name, tuple(shape))
    turned = other.dim() == 2 and other.t().shape == value.shape and torch.equal(other.t(), value)
    return Twin(name, tuple(shape), is_turned=True) if turned else None


def _is_varied(value: Tensor) -> bool:
    return len(set(value.flatten()[:1000].tolist())) >= _NUMBERS
