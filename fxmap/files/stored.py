"""Stored: regions of a tensor that lies in a file, row by row, read without the rest of it.

>>> import tempfile, torch
>>> with tempfile.TemporaryDirectory() as folder:
...     path = Path(folder) / "numbers"
...     _ = path.write_bytes(bytes(range(12)))
...     Stored(path, Stamp.of(path), 0, (3, 4), torch.uint8).lazy()[1:, 2:] + 0
tensor([[ 6,  7],
        [10, 11]], dtype=torch.uint8)
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fxmap.errors import CheckpointError
from fxmap.expressions.regions import Region, cut, extents, whole
from fxmap.files.lazy import LazyTensor
from fxmap.files.unchanged import Stamp

# Where columns are cut, rows are read in blocks of this many bytes.
_BLOCK = 32 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """The place of a contiguous tensor in a file, in bytes from its beginning; in this machine's order of bytes."""

    path: Path
    stamp: Stamp
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def lazy(self) -> LazyTensor:
        """Return the tensor, to be read when it is needed."""
        return LazyTensor(self.shape, self.dtype, self.read)

    def read(self, region: Region) -> Tensor:
        """Read a region into memory of its own.

        Raises:
            CheckpointError: the file is gone, or was changed since it was opened.

        Memory: the region, and 32 MiB where it cuts another axis than the first.
        """
        self.stamp.check(self.path)
        try:
            with self.path.open("rb", buffering=0) as file:
                return self._read(file.fileno(), region)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error}") from error

    def blocks(self, region: Region, size: int) -> Iterator[memoryview]:
        """Yield the bytes of a region of whole rows, in blocks that each are gone when the next one is asked for.

        Raises:
            CheckpointError: as `read`.
        """
        self.stamp.check(self.path)
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        offset, left = self.offset + (region[0][0] * row if region else 0), math.prod(extents(region)) * self.dtype.itemsize
        buffer = memoryview(bytearray(min(size, left)))
        try:
            with self.path.open("rb", buffering=0) as file:
                while left:
                    block = buffer[: min(size, left)]
                    self._fill(file.fileno(), block, offset)
                    yield block
                    offset, left = offset + len(block), left - len(block)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error}") from error

    def _read(self, file: int, region: Region) -> Tensor:
        made = torch.empty(extents(region), dtype=self.dtype)
        if not made.numel():
            return made
        row = math.prod(self.shape[1:])
        if not region or region[1:] == tuple((0, extent) for extent in self.shape[1:]):
            self._fill(file, bytes_of(made), self._place(region[0][0] * row if region else 0))
            return made
        (start, stop), step = region[0], max(1, _BLOCK // (row * self.dtype.itemsize))
        for begin in range(start, stop, step):
            end = min(begin + step, stop)
            block = torch.empty((end - begin, *self.shape[1:]), dtype=self.dtype)
            self._fill(file, bytes_of(block), self._place(begin * row))
            made[begin - start : end - start] = cut(block, ((0, end - begin), *region[1:]))
        return made

    def _place(self, element: int) -> int:
        return self.offset + element * self.dtype.itemsize

    def _fill(self, file: int, place: memoryview, offset: int) -> None:
        """Read the bytes from an offset on until a buffer is full."""
        done = 0
        while done < len(place):
            count = os.preadv(file, [place[done:]], offset + done)
            if not count:
                raise CheckpointError(f"{self.path}: ends {len(place) - done} bytes too early: cut off. Fetch it anew")
            done += count


def bytes_of(value: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor of the CPU, which are its own memory."""
    return memoryview(value.detach().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def blocks_in_file(value: object, size: int) -> Iterator[memoryview] | None:
    """Return the bytes of a lazy tensor, block by block, where they lie in a file one behind the other; else None."""
    stored = value.origin if isinstance(value, LazyTensor) else None
    if not isinstance(value, LazyTensor) or not isinstance(stored, Stored):
        return None
    region = value.region
    return stored.blocks(region, size) if region[1:] == whole(stored.shape)[1:] else None
