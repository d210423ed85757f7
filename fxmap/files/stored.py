"""Stored: regions of a tensor that lies in a file, row by row, read without the rest of it.

>>> import tempfile, torch
>>> with tempfile.TemporaryDirectory() as folder:
...     path = Path(folder) / "numbers"
...     _ = path.write_bytes(bytes(range(12)))
...     Stored(path, Stamp.of(path), 0, (3, 4), torch.uint8).lazy()[1:, 2:] + 0
tensor([[ 6,  7],
        [10, 11]], dtype=torch.uint8)
"""

import errno
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fxmap.errors import CheckpointError
from fxmap.expressions.regions import Region, cut, extents, whole
from fxmap.files.lazy import LazyTensor
from fxmap.files.unchanged import Stamp
from fxmap.model.tensors import bytes_of

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

    def copy(
        self, region: Region, target: int, buffer: memoryview, beside: Executor, done: Callable[[memoryview], object]
    ) -> None:
        """Copy the bytes of a region of whole rows to the end of an open file, inside the system where it can do that.

        Args:
            region: of which only the first axis is cut.
            target: the descriptor of a file that is open for writing.
            buffer: memory of the size of a block.
            beside: of one thread, which reads while this one copies.
            done: called in that thread with every block, which is gone when it returns.

        Raises:
            CheckpointError: as `read`.
            OSError: the target cannot be written.
        """
        self.stamp.check(self.path)
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        offset, left = self.offset + (region[0][0] * row if region else 0), math.prod(extents(region)) * self.dtype.itemsize
        with _opened(self.path) as source:
            while left:
                block = buffer[:left]
                read = beside.submit(self._fill_and_call, source, block, offset, done)
                _copy_range(source, target, offset, len(block))
                read.result()
                offset, left = offset + len(block), left - len(block)
        self.stamp.check(self.path)

    def _fill_and_call(self, file: int, block: memoryview, offset: int, done: Callable[[memoryview], object]) -> None:
        self._fill(file, block, offset)
        done(block)

    def _read(self, file: int, region: Region) -> Tensor:
        made = torch.empty(extents(region), dtype=self.dtype, device="cpu")
        if not made.numel():
            return made
        row = math.prod(self.shape[1:])
        if not region or region[1:] == tuple((0, extent) for extent in self.shape[1:]):
            self._fill(file, bytes_of(made), self._place(region[0][0] * row if region else 0))
            return made
        (start, stop), step = region[0], max(1, _BLOCK // (row * self.dtype.itemsize))
        for begin in range(start, stop, step):
            end = min(begin + step, stop)
            block = torch.empty((end - begin, *self.shape[1:]), dtype=self.dtype, device="cpu")
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


def place_of(value: object) -> tuple[Stored, Region] | None:
    """Return where a lazy tensor lies in a file, if its bytes are one behind the other there; else None."""
    stored = value.origin if isinstance(value, LazyTensor) else None
    if not isinstance(value, LazyTensor) or not isinstance(stored, Stored):
        return None
    return (stored, value.region) if value.region[1:] == whole(stored.shape)[1:] else None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    try:
        yield file
    finally:
        os.close(file)


def _copy_range(source: int, target: int, offset: int, count: int) -> None:
    """Append bytes of one file to another, in the kernel where it can, which takes a third of the time."""
    while count:
        try:
            copied = os.copy_file_range(source, target, count, offset)
        except (AttributeError, OSError) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            copied = os.write(target, os.pread(source, count, offset))
        if not copied:
            raise CheckpointError("a file that is copied ends too early: it was cut off. Fetch it anew")
        offset, count = offset + copied, count - copied
