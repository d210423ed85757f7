"""Convert: the work of writing what a mapping makes of a checkpoint, with dtypes and metadata."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import CheckpointError
from fxmap.mapping.applying import whole_ones
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.lazy_state import LazyState, is_plain_tensor
from fxmap.streaming.folder import Work
from fxmap.streaming.shards import Entry, shards_of

_LOCK = re.compile(r"\..*\.lock")

# Bytes of a shard, as the libraries of Hugging Face choose them.
SHARD_SIZE = 5_000_000_000


def work_of(
    mapping: KeyMapping,
    state: Mapping[str, Any],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    metadata: Mapping[str, str],
    shard_size: int = SHARD_SIZE,
    dtype: torch.dtype | None = None,
    identity: str = "",
) -> Work:
    """Return the work of writing all keys that a mapping makes whole, in its order.

    Args:
        mapping: over the keys of `state`.
        state: the source's tensors, best lazy ones.
        shapes: the destination's, which the values must have.
        metadata: of every file.
        shard_size: in bytes.
        dtype: of tensors of floating point; by default that of the source.
        identity: what the state is, as the paths, sizes and times of its files.

    Raises:
        CheckpointError: a value has another shape than the destination, or is no plain tensor.
    """
    lazy = LazyState(whole_ones(mapping), state)
    entries = [_entry(key, lazy.described(key), shapes, dtype) for key in lazy]
    return Work(shards_of(entries, shard_size, metadata), lazy.moved, f"{identity}\n{mapping.to_json()}")


def _entry(key: str, value: Any, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype | None) -> Entry:
    if not (is_plain_tensor(value) or (isinstance(value, Tensor) and value.is_meta)):
        raise CheckpointError(f"{key}: {type(value).__name__}, which shards cannot hold: write one file, as new.pth")
    shape = tuple(value.shape)
    if key in shapes and shape != tuple(shapes[key]):
        raise CheckpointError(f"{key}: source {list(shape)}, destination {list(shapes[key])}. Nothing was written")
    wanted = value.dtype if dtype is None or not value.is_floating_point() else dtype
    return Entry(key, shape, wanted)


def files_of(source: Path) -> list[Path]:
    """Return the files of a checkpoint: those beside its index, or the file alone."""
    several = source.name.endswith(".json") or source.name == ".metadata"
    if not several:
        return [source]
    # Not the lock of a conversion into a folder beside them, which was killed: the next one is to know its shards again.
    return sorted(path for path in source.parent.iterdir() if path.is_file() and not _LOCK.fullmatch(path.name))


def identity_of(source: Path) -> str:
    """Return paths, sizes and times of the files of a checkpoint."""
    facts = ((path.resolve(), path.stat()) for path in files_of(source))
    return "\n".join(f"{path} {found.st_size} {found.st_mtime_ns}" for path, found in facts)
