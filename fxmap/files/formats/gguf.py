"""GGUF files of llama.cpp: names, shapes, and blocks of quantized numbers, which the package gguf dequantizes.

The header is read here: that package trusts the counts in it, and maps the file into memory. Numbers are those that the
checkpoint had before llama.cpp's script wrote it: rows of queries and keys that it reordered for its rotary kernel go back.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from fxmap.errors import CheckpointError
from fxmap.expressions.regions import Region, cut, whole
from fxmap.files.arrays import library, numbers_of
from fxmap.files.format import Format, reason_of
from fxmap.files.lazy import LazyTensor
from fxmap.files.limits import current
from fxmap.files.stored import Stored
from fxmap.files.unchanged import Stamp

_EXTRA = "'fxmap[gguf]'"
_MAGIC, _VERSIONS, _ALIGNMENT, _MOST_AXES = b"GGUF", (2, 3), 32, 8
# Kinds of values in the header: numbers by their struct codes, text, lists.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
# Kinds of tensors that torch has as well; all others are blocks.
_PLAIN = {
    0: torch.float32, 1: torch.float16, 24: torch.int8, 25: torch.int16, 26: torch.int32, 27: torch.int64, 28: torch.float64,
    30: torch.bfloat16,
}  # fmt: skip
# Architectures whose numbers the script left as they were; that of "llama" reorders rows, which is undone.
_AS_THEY_WERE = frozenset({"", "llama", "mistral3", "qwen2", "qwen3", "phi3", "starcoder2", "stablelm", "smollm3"})


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(slots=True)
class _Reader:
    """Reads the header of a file, and never more values than it has bytes."""

    file: IO[bytes]
    size: int
    facts: dict[str, Any] = field(default_factory=dict)

    def number(self, code: str) -> Any:
        data = self.file.read(struct.calcsize(f"<{code}"))
        return struct.unpack(f"<{code}", data)[0]

    def count(self, each: int = 1) -> int:
        found = int(self.number("Q"))
        if found * each > self.size:
            raise ValueError(f"{found:,} values are announced in {self.size:,} bytes")
        return found

    def text(self) -> str:
        return self.file.read(self.count()).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _TEXT:
            return self.text()
        if kind != _LIST or depth > current().depth:
            raise ValueError(f"a value of the kind {kind}")
        inner, count = self.number("I"), self.count()
        if inner in _NUMBERS:
            self.file.seek(count * struct.calcsize(f"<{_NUMBERS[inner]}"), 1)
            return None
        for _ in range(count):
            self.value(inner, depth + 1)
        return None

    def tensors(self) -> Iterator[_Tensor]:
        if self.file.read(4) != _MAGIC or self.number("I") not in _VERSIONS:
            raise ValueError("the header is not that of GGUF, version 2 or 3, in little-endian order")
        tensors, facts = self.count(each=8), self.count(each=8)
        for _ in range(facts):
            key = self.text()
            self.facts[key] = self.value(self.number("I"))
        for _ in range(tensors):
            name, axes = self.text(), self.number("I")
            if axes > _MOST_AXES:
                raise ValueError(f"{name}: {axes} axes")
            shape = tuple(self.number("Q") for _ in range(axes))[::-1]
            yield _Tensor(name, shape, self.number("I"), self.number("Q"))


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Quantized rows in a file: blocks of numbers, each with its scale."""

    stored: Stored
    kind: Any
    shape: tuple[int, ...]

    def read(self, region: Region) -> Tensor:
        """Dequantize the rows of a region, and cut it out.

        Raises:
            CheckpointError: the package cannot dequantize this kind.
        """
        quants = library("gguf.quants", _EXTRA, self.stored.path)
        rows = region[:1] if len(self.shape) > 1 else ()
        inside = (*rows, *whole(self.stored.shape)[len(rows) :])
        try:
            numbers = torch.from_numpy(quants.dequantize(self.stored.read(inside).numpy(), self.kind).copy())
        except NotImplementedError as error:
            raise CheckpointError(f"{self.stored.path}: {error}") from error
        here = ((0, region[0][1] - region[0][0]), *region[1:]) if rows else region
        return cut(numbers, here).clone()


@dataclass(frozen=True, slots=True)
class _Reordered:
    """Rows of a rotary projection whose two halves llama.cpp has put in turn, head by head."""

    of: LazyTensor
    heads: int

    def read(self, region: Region) -> Tensor:
        """Read all rows, and return a region of them in the order that they had."""
        value = self.of.read()
        width = value.shape[0] // self.heads
        rows = value.reshape(self.heads, width // 2, 2, *value.shape[1:]).transpose(1, 2).reshape(value.shape)
        return cut(rows, region).clone()


def _lazy(path: Path) -> Mapping[str, Any]:
    try:
        stamp = Stamp.of(path)
        with path.open("rb") as file:
            reader = _Reader(file, stamp.size)
            tensors = list(reader.tensors())
            step = reader.facts.get("general.alignment", _ALIGNMENT)
            if not isinstance(step, int) or step < 1:
                raise ValueError(f"an alignment of {step}")
            begin = -(-file.tell() // step) * step
        _refuse_changed(path, reader.facts)
        return {one.name: _with_rows(one, _tensor(one, path, stamp, begin), reader.facts) for one in tensors}
    except CheckpointError:
        raise
    except Exception as error:  # a damaged header fails in whatever way its bytes say
        raise CheckpointError(f"{path}: not a readable GGUF file: {reason_of(error)}") from error


def _refuse_changed(path: Path, facts: Mapping[str, Any]) -> None:
    """Refuse architectures whose numbers llama.cpp's script changes (norms plus one, rows of joined projections)."""
    name = facts.get("general.architecture", "")
    if name not in _AS_THEY_WERE:
        raise CheckpointError(
            f"{path}: a GGUF file of the architecture {name!r}: the script that wrote it may have changed numbers of the "
            "checkpoint, and what it did is not known here. Take that checkpoint, or let transformers read the file: "
            "AutoModel.from_pretrained(folder, gguf_file=name)"
        )


def _tensor(one: _Tensor, path: Path, stamp: Stamp, begin: int) -> LazyTensor:
    offset = begin + one.offset
    if one.kind in _PLAIN:
        dtype = _PLAIN[one.kind]
        _refuse_cut_off(one, offset + prod(one.shape) * dtype.itemsize, stamp.size)
        return Stored(path, stamp, offset, one.shape, dtype).lazy()
    constants = library("gguf.constants", _EXTRA, path)
    kind = constants.GGMLQuantizationType(one.kind)
    block, size = constants.GGML_QUANT_SIZES[kind]
    if not one.shape or one.shape[-1] % block:
        raise ValueError(f"{one.name}: rows of {one.shape[-1:]} numbers in blocks of {block}")
    shape = (*one.shape[:-1], one.shape[-1] // block * size)
    _refuse_cut_off(one, offset + prod(shape), stamp.size)
    return LazyTensor(
        one.shape, torch.float32, _Blocks(Stored(path, stamp, offset, shape, torch.uint8), kind, one.shape).read
    )


def _refuse_cut_off(one: _Tensor, end: int, size: int) -> None:
    if end > size:
        raise ValueError(f"{one.name}: ends at byte {end:,}, and the file has {size:,}: cut off")


def _with_rows(one: _Tensor, value: LazyTensor, facts: Mapping[str, Any]) -> LazyTensor:
    if facts.get("general.architecture") != "llama" or not one.name.endswith(("attn_q.weight", "attn_k.weight")):
        return value
    heads = facts.get("llama.attention.head_count")
    if "attn_k" in one.name:
        heads = facts.get("llama.attention.head_count_kv") or heads
    if not isinstance(heads, int) or heads < 1 or one.shape[0] % (2 * heads):
        raise ValueError(f"{one.name}: the number of heads that its rows are in is not said")
    return LazyTensor(one.shape, value.dtype, _Reordered(value, heads).read)


GGUF = Format(
    name="GGUF",
    suffixes=(".gguf",),
    holds="tensors by name, also quantized in blocks, as llama.cpp reads them",
    read=lambda path: numbers_of(_lazy(path), path),
    lazy=_lazy,
)
