"""Journal: the old values of the tensors that are about to be written, to be put back where writing fails.

A second copy of the model would be in memory otherwise. Values are kept in memory up to a bound, and beyond it in a
temporary file, whose folder `TMPDIR` chooses.

>>> import torch
>>> weight = torch.zeros(2)
>>> with Journal() as journal:
...     journal.save("fc.weight", weight)
...     _ = weight.fill_(1)
...     journal.restore()
>>> weight
tensor([0., 0.])
"""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import IO, Any, Self

import torch
from torch import Tensor

from fxmap.errors import LoadError
from fxmap.model.tensors import bytes_of

# Bytes of old values that stay in memory, at most and in any case.
BOUND, _LEAST = 64 << 20, 8 << 20


def bound_of(tensors: Iterable[Any]) -> int:
    """Return how many bytes of old values of some tensors stay in memory: those of the largest one, within limits.

    >>> bound_of([torch.zeros(3_000_000), torch.zeros(2)]) >> 20
    11
    """
    sizes = (value.numel() * value.element_size() for value in tensors if isinstance(value, Tensor))
    return min(BOUND, max(_LEAST, *sizes, 0))


@dataclass(frozen=True, slots=True)
class _Entry:
    """The old value of a tensor: in memory, or at a place of the file."""

    key: str
    tensor: Tensor
    value: Tensor | None
    offset: int


class Journal:
    """The old values of tensors, in the order in which they were saved; a context manager, which ends the file.

    Args:
        bound: how many bytes may stay in memory.
    """

    def __init__(self, bound: int = BOUND) -> None:
        self._free = bound
        self._entries: list[_Entry] = []
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._entries.clear()
        if self._file is not None:
            self._file.close()

    def save(self, key: str, tensor: Tensor) -> None:
        """Save the value that a tensor has now.

        Raises:
            LoadError: the file cannot be written, as on a full disk; the tensor itself is untouched.
        """
        size = tensor.numel() * tensor.element_size()
        if size <= self._free:
            self._free -= size
            self._entries.append(_Entry(key, tensor, tensor.detach().clone(), 0))
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="fxmap-journal-")  # noqa: SIM115 - closed in __exit__
            offset = self._file.seek(0, 2)
            self._file.write(bytes_of(tensor))
            self._file.flush()
        except OSError as error:
            raise LoadError(
                f"{key}: its old value ({size / 1e6:.0f} MB), which comes back should loading fail, cannot be kept in "
                f"{tempfile.gettempdir()}: {error}. Name a folder with more room by the environment variable TMPDIR"
            ) from error
        self._entries.append(_Entry(key, tensor, None, offset))

    def restore(self) -> None:
        """Put all values back, the last one first: a tensor that was saved twice gets its first value."""
        for _, step in self.steps():
            step()

    def steps(self) -> list[tuple[str, Callable[[], None]]]:
        """Return the steps that put the values back, each with its key; they take no code of the tensors' own classes."""
        return [(entry.key, partial(self._put_back, entry)) for entry in reversed(self._entries)]

    def _put_back(self, entry: _Entry) -> None:
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            entry.tensor.copy_(self._read(entry) if entry.value is None else entry.value)

    def _read(self, entry: _Entry) -> Tensor:
        assert self._file is not None
        value = torch.empty(entry.tensor.shape, dtype=entry.tensor.dtype)
        self._file.seek(entry.offset)
        self._file.readinto(bytes_of(value))  # type: ignore[attr-defined]
        return value
