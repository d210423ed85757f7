"""Limits: what a small file may grow to, in memory and in time, and the check of what was read.

A file of a few kilobytes can hold itself, hold one dict along a billion ways, or name a tensor of terabytes. What was read
is walked once, with bounds on depth, on entries (counted along every way to them, as whoever searches it meets them), and on
the bytes of its tensors for each byte of the file.

>>> loop: dict[str, object] = {}
>>> loop["again"] = loop
>>> check_contents(loop, "a.pth")
Traceback (most recent call last):
...
fxmap.errors.CheckpointError: a.pth: it holds itself, by 'again'. Save model.state_dict() alone
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fxmap.errors import CheckpointError
from fxmap.expressions.functions import is_wrapped
from fxmap.expressions.qparams import check_quantized


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what reading a file may lead to; see `file_limits`.

    Attributes:
        depth: how many containers may lie inside each other.
        entries: how many entries containers may have, counted along every way to them.
        expansion: how many bytes a file may become in memory for each of its own.
        free: bytes in memory that are not asked about, whatever the size of the file.
    """

    depth: int = 64
    entries: int = 5_000_000
    expansion: float = 100.0
    free: int = 2**28

    def allowed(self, size: int) -> float:
        """Return the bytes in memory that a file of a size may become."""
        return max(self.free, self.expansion * size)


_CURRENT: ContextVar[Limits | None] = ContextVar("fxmap_file_limits", default=None)


def current() -> Limits:
    """Return the limits that hold here, in this thread."""
    return _CURRENT.get() or Limits()


@contextmanager
def file_limits(
    *, depth: int | None = None, entries: int | None = None, expansion: float | None = None, free: int | None = None
) -> Iterator[Limits]:
    """Read files with other limits, within a `with` block and in this thread; what is left out stays as it is.

    Args:
        depth: how many containers may lie inside each other (64).
        entries: how many entries the containers of a file may have, counted along every way to them (5,000,000).
        expansion: how many bytes a file may become in memory for each of its own (100).
        free: bytes in memory that are not asked about, whatever the size of the file (256 MiB).

    >>> with file_limits(depth=3) as limits:
    ...     limits.depth, current().depth
    (3, 3)
    >>> current().depth
    64
    """
    given: dict[str, Any] = {"depth": depth, "entries": entries, "expansion": expansion, "free": free}
    limits = replace(current(), **{name: value for name, value in given.items() if value is not None})
    token = _CURRENT.set(limits)
    try:
        yield limits
    finally:
        _CURRENT.reset(token)


_WAY_OUT = "Save model.state_dict() alone"


def check_contents(data: object, where: str, size: int | None = None) -> None:
    """Check what a file of `size` bytes holds, or what was given in its place (None: its tensors are in memory already).

    Raises:
        CheckpointError: it holds itself, is nested deeper, has more entries, or more bytes than the limits allow; or a
            quantized tensor of it has parameters that torch's kernels cannot take.

    Cost: linear in the number of entries, at most `limits.entries`.
    """
    limits = current()
    # Without a size nothing is asked about bytes, not even of sums beyond what the machine has.
    allowed = float("inf") if size is None else limits.allowed(size)
    seen, held = 0, 0
    for depth, name, value in _walk(data, where):
        if depth > limits.depth:
            raise CheckpointError(
                f"{where}: nested deeper than {limits.depth} containers. {_WAY_OUT}, or allow it: "
                "fxmap.file_limits(depth=...)"
            )
        seen += len(value) if isinstance(value, Mapping) else 1
        if seen > limits.entries:
            raise CheckpointError(
                f"{where}: more than {limits.entries:,} entries, counted along every way to them. {_WAY_OUT}, or allow it: "
                "fxmap.file_limits(entries=...)"
            )
        if isinstance(value, Tensor):
            held += _bytes_of(value)
            _check_tensor(value, where, name)
        if held > allowed:
            raise CheckpointError(
                f"{where}: {size:,} bytes that would become {held:,} or more in memory, with {name!r}. {_WAY_OUT}, or allow "
                "it: fxmap.file_limits(expansion=...)"
            )


def _walk(data: object, where: str) -> Iterator[tuple[int, Any, Any]]:
    """Yield every container and tensor with its depth and its name in the container that holds it, along every way.

    Raises:
        CheckpointError: a container holds itself.
    """
    # Each container is kept until all in it are done; then it is no longer on the way.
    todo: list[tuple[int, Any, Any]] = [(0, "", data)]
    way: dict[int, None] = {}
    while todo:
        depth, name, value = todo.pop()
        if name is _DONE:
            del way[id(value)]
            continue
        if not isinstance(value, Tensor | Mapping | list | tuple):
            continue
        yield depth, name, value
        if isinstance(value, Tensor):
            continue
        if id(value) in way:
            raise CheckpointError(f"{where}: it holds itself, by {name!r}. {_WAY_OUT}")
        way[id(value)] = None
        todo.append((depth, _DONE, value))
        inside = value.items() if isinstance(value, Mapping) else enumerate(value)
        todo += [(depth + 1, key, part) for key, part in inside if isinstance(part, Tensor | Mapping | list | tuple)]


_DONE = object()


def _bytes_of(value: Tensor) -> int:
    """Return the bytes that a tensor has when it is copied, which for one of stride 0 are more than it has now."""
    return 0 if value.is_meta or value.is_nested else value.numel() * value.element_size()


def _check_tensor(value: Tensor, where: str, name: object) -> None:
    if value.is_nested:
        raise CheckpointError(f"{where}: {name}: a nested tensor, which has no shape. Store its parts: tensor.unbind()")
    if value.is_meta or is_wrapped(value) or not value.is_quantized:
        return
    try:
        check_quantized(value)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{where}: {name}: no quantized tensor that can be used: {error}") from error
