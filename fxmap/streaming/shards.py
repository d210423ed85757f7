"""Shards: which tensors go into which file of a checkpoint, and where each of them lies there.

>>> sizes = {"a": (3, 2), "b": (4, 2), "c": (1,)}
>>> entries = [Entry(key, shape, torch.float32) for key, shape in sizes.items()]
>>> for shard in shards_of(entries, 40, {"format": "pt"}):
...     print(shard.name, [entry.key for entry in shard.entries], shard.nbytes)
model-00001-of-00002.safetensors ['a'] 24
model-00002-of-00002.safetensors ['b', 'c'] 36
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from fxmap.errors import CheckpointError

# The dtypes of the format, by their names in a header.
NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

# Where tensors begin is a multiple of this many bytes.
_ALIGNED = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor that is to be written: its key, shape and dtype."""

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """The bytes of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Shard:
    """One file: its name, its tensors in the order in which they are written, and its metadata."""

    name: str
    entries: tuple[Entry, ...]
    metadata: tuple[tuple[str, str], ...]

    @property
    def nbytes(self) -> int:
        """The bytes of its tensors."""
        return sum(entry.nbytes for entry in self.entries)

    def header(self) -> bytes:
        """Return what a .safetensors file begins with: the length of the header, and the header."""
        fields: dict[str, object] = {"__metadata__": dict(self.metadata)} if self.metadata else {}
        begin = 0
        for entry in self.entries:
            place = [begin, begin + entry.nbytes]
            fields[entry.key] = {"dtype": NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": place}
            begin += entry.nbytes
        text = json.dumps(fields, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNED)
        return len(text).to_bytes(8, "little") + text


def shards_of(entries: Iterable[Entry], size: int, metadata: Mapping[str, str]) -> list[Shard]:
    """Put tensors into shards of at most `size` bytes, in their order; a larger tensor has one of its own.

    Inside of a shard those of the widest dtype come first, so that all are aligned. One shard is called
    `model.safetensors`, several as Hugging Face's libraries call them.

    Raises:
        CheckpointError: the format has no name for the dtype of a tensor.
    """
    groups: list[list[Entry]] = []
    held = size + 1
    for entry in entries:
        if entry.dtype not in NAMES:
            raise CheckpointError(f"{entry.key}: .safetensors cannot hold {entry.dtype}. Choose another by dtype (--dtype)")
        if held + entry.nbytes > size:
            groups.append([])
            held = 0
        groups[-1].append(entry)
        held += entry.nbytes
    facts = tuple(sorted(metadata.items()))
    return [
        Shard(_name(number, len(groups)), tuple(sorted(group, key=lambda entry: -entry.dtype.itemsize)), facts)
        for number, group in enumerate(groups, 1)
    ]


def index_of(shards: Sequence[Shard]) -> str:
    """Return the index of several shards: {"metadata": {"total_size": bytes}, "weight_map": {key: file}}."""
    places = {entry.key: shard.name for shard in shards for entry in shard.entries}
    total = sum(shard.nbytes for shard in shards)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2) + "\n"


def _name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
