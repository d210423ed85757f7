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
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fxmap.errors import CheckpointError
from fxmap.expressions.regions import Region, cut, extents
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

    def _read(self, file: int, region: Region) -> Tensor:
        made = torch.empty(extents(region), dtype=self.dtype)
        if not made.numel():
            return made
        row = math.prod(self.shape[1:])
        if not region or region[1:] == tuple((0, extent) for extent in self.shape[1:]):
            self._fill(file, made, region[0][0] * row if region else 0)
            return made
        (start, stop), step = region[0], max(1, _BLOCK // (row * self.dtype.itemsize))
        for begin in range(start, stop, step):
            end = min(begin + step, stop)
            block = torch.empty((end - begin, *self.shape[1:]), dtype=self.dtype)
            self._fill(file, block, begin * row)
            made[begin - start : end - start] = cut(block, ((0, end - begin), *region[1:]))
        return made

    def _fill(self, file: int, block: Tensor, element: int) -> None:
        """Read the numbers from an element on into a contiguous tensor."""
        place = memoryview(block.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        offset, done = self.offset + element * self.dtype.itemsize, 0
        while done < len(place):
            count = os.preadv(file, [place[done:]], offset + done)
            if not count:
                raise CheckpointError(f"{self.path}: ends {len(place) - done} bytes too early: cut off. Fetch it anew")
            done += count
