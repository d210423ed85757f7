"""Compare two checkpoints, key by key: whether the second one holds what a mapping makes of the first.

>>> import torch
>>> from fxmap.mapping.key_mapping import KeyMapping
>>> mapping = KeyMapping({"new.weight": "old.weight"})
>>> print(compare(mapping, {"old.weight": torch.ones(2, 2)}, {"new.weight": torch.ones(2, 2)}))
1 of 1 keys are equal, bit for bit
>>> print(compare(mapping, {"old.weight": torch.ones(2, 2)}, {"new.weight": torch.tensor([[1.0, 1.0], [1.0, 1.5]])}))
0 of 1 keys are equal, bit for bit
new.weight: differs by 0.5 (relative to the largest value: 0.5), first at [1, 1]: 1.5 instead of 1.0

Cost: every byte of both files is read once. Memory: a block of rows of one tensor, of both files; a whole tensor where its
expression needs that.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import shorten
from fxmap.expressions.regions import Region, cut
from fxmap.files.lazy import materialise
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.lazy_state import LazyState
from fxmap.model.wrappers import match_prefix

Progress = Callable[[int, int, str], None]

# Bytes of a block.
_BLOCK = 32 << 20


@dataclass(frozen=True)
class Difference:
    """A key whose value is not what the mapping makes: how far it is off, or why it cannot be compared.

    `place` is the index of the first number that differs, `found` and `wanted` are that number in the file and in the
    mapping's tensor; `error` is the largest difference, and `relative` that relative to the largest number of the mapping's.
    """

    key: str
    reason: str = ""
    error: float = math.nan
    relative: float = math.nan
    place: tuple[int, ...] = ()
    found: Any = None
    wanted: Any = None

    def __str__(self) -> str:
        if self.reason:
            return f"{self.key}: {self.reason}"
        size = f"differs by {self.error:.2g} (relative to the largest value: {self.relative:.2g})"
        return f"{self.key}: {size}, first at {list(self.place)}: {self.found} instead of {self.wanted}"


@dataclass(frozen=True)
class Compared:
    """The result of comparing a file with what a mapping makes.

    Attributes:
        keys: how many the mapping makes.
        differences: those that are not equal, bit for bit, in the order of the mapping.
        converted: keys that are equal once the mapping's value has the dtype of the file.
        others: keys of the file that the mapping does not make.
    """

    keys: int
    differences: tuple[Difference, ...] = ()
    converted: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every key is there and equal."""
        return not self.differences

    def __str__(self) -> str:
        lines = [f"{self.keys - len(self.differences)} of {self.keys} keys are equal, bit for bit"]
        if self.converted:
            lines[0] += f"; {len(self.converted)} of them in another dtype: {shorten(list(self.converted))}"
        lines += [str(one) for one in self.differences[:_SHOWN]]
        if len(self.differences) > _SHOWN:
            lines.append(f"... and {len(self.differences) - _SHOWN} more")
        if self.others:
            lines.append(f"{len(self.others)} keys of the file are not made by the mapping: {shorten(list(self.others))}")
        return "\n".join(lines)


_SHOWN = 10


def compare(
    mapping: KeyMapping,
    source: Mapping[str, Any],
    destination: Mapping[str, Any],
    progress: Progress = lambda done, total, what: None,
) -> Compared:
    """Compare every value that a mapping makes of the source's tensors with the destination's.

    Args:
        mapping: over the keys of `source`.
        source, destination: the tensors of both files, best lazy ones.
        progress: called with the bytes done, the bytes in all, and the key, after every block.

    Raises:
        MappingError: the source lacks a key.
        CheckpointError: a file is broken, or changes meanwhile.
    """
    made, (destination, _) = mapping.lazy(source), match_prefix(destination, set(mapping))
    sizes = {key: _bytes(destination.get(key)) for key in mapping}
    total, done, differences, converted = sum(sizes.values()), 0, list[Difference](), list[str]()
    for key in mapping:
        reached = done
        found = _compared(made, key, destination.get(key), lambda more: progress(reached + more, total, key))  # noqa: B023
        if isinstance(found, Difference):
            differences.append(found)
        elif found:
            converted.append(key)
        done += sizes[key]
        progress(done, total, key)
    others = tuple(key for key in destination if key not in mapping)
    return Compared(len(mapping), tuple(differences), tuple(converted), others)


def _compared(made: LazyState, key: str, value: Any, progress: Callable[[int], None]) -> Difference | bool:
    """Compare one key; returns whether the mapping's value is converted to the dtype of the file's, or the difference."""
    if value is None:
        return Difference(key, "not in the file")
    if not isinstance(value, Tensor):
        return Difference(key, f"{type(value).__name__} in the file, no tensor")
    described: Any = made.described(key)
    if not isinstance(getattr(described, "dtype", None), torch.dtype):
        return Difference(key, f"a tensor in the file, the mapping makes a {type(described).__name__}")
    if tuple(described.shape) != tuple(value.shape):
        return Difference(key, f"{list(value.shape)} in the file, the mapping makes {list(described.shape)}")
    kinds = [tensor.is_floating_point() or tensor.is_complex() for tensor in (described, value)]
    if described.dtype != value.dtype and not all(kinds):
        return Difference(key, f"{value.dtype} in the file, the mapping makes {described.dtype}")
    done = 0
    for region in _regions(value):
        wanted, found = _block(made, key, value, region)
        if not torch.equal(_bits(wanted), _bits(found)):
            return _difference(made, key, value, region)
        done += found.nbytes
        progress(done)
    return bool(described.dtype != value.dtype)


def _block(made: LazyState, key: str, value: Tensor, region: Region) -> tuple[Tensor, Tensor]:
    """Return a block as the mapping makes it, in the dtype of the file, and as the file holds it."""
    return made.part(key, region).to(value.dtype), materialise(cut(value, region))


def _difference(made: LazyState, key: str, value: Tensor, region: Region) -> Difference:
    """Measure a tensor whose numbers differ, of which `region` is the first block that does."""
    wanted, found = _block(made, key, value, region)
    size = wanted.dtype.itemsize
    number = int((_bits(wanted).reshape(-1, size) != _bits(found).reshape(-1, size)).any(1).to(torch.uint8).argmax())
    place = [int(part) for part in torch.unravel_index(torch.tensor(number), wanted.shape)] if wanted.dim() else []
    place = [place[0] + region[0][0], *place[1:]] if place else place
    values = found.reshape(-1)[number].item(), wanted.reshape(-1)[number].item()
    error = largest = 0.0
    for block in _regions(value):
        one, other = (_numbers(part) for part in _block(made, key, value, block))
        error = max(error, float((one - other).abs().nan_to_num(math.inf).max()))
        largest = max(largest, float(one.abs().nan_to_num(0.0).max()))
    relative = error / largest if largest else math.inf
    return Difference(key, "", error, relative, tuple(place), *values)


def _bytes(value: Any) -> int:
    return value.numel() * value.dtype.itemsize if isinstance(value, Tensor) else 0


def _regions(value: Tensor) -> Iterator[Region]:
    """Yield blocks of whole rows that together are a tensor."""
    shape = tuple(value.shape)
    if not shape or not value.numel():
        yield tuple((0, extent) for extent in shape)
        return
    step = max(1, _BLOCK // (math.prod(shape[1:]) * value.dtype.itemsize))
    for start in range(0, shape[0], step):
        yield ((start, min(shape[0], start + step)), *((0, extent) for extent in shape[1:]))


def _bits(value: Tensor) -> Tensor:
    return value.contiguous().reshape(-1).view(torch.uint8)


def _numbers(value: Tensor) -> Tensor:
    return torch.view_as_real(value.to(torch.complex128)) if value.is_complex() else value.double()
