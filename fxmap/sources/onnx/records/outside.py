"""Numbers of an ONNX model that lie in files beside it: mapped into memory, so that they are read when they are asked for.

A model of several GB is opened without a copy: its weights are views of the file, whose pages the system reads when an
operation needs them, and drops when memory is short. What is written to such a weight stays in memory, and never
reaches the file. What is small, or no tensor of torch as it lies there, is read into the model itself.

>>> from types import SimpleNamespace as Entry
>>> entries = [Entry(key="location", value="net.data"), Entry(key="offset", value="4096")]
>>> _Place.of(Entry(name="w", external_data=entries))
_Place(location='net.data', offset=4096, length=None)
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxmap.errors import CheckpointError
from fxmap.sources.onnx.records.values import DTYPES

# Fewer bytes are read into the model, where whatever reads it looks: conditions, shapes, numbers of the code.
SMALL = 1024
EXTERNAL = 1  # onnx.TensorProto.EXTERNAL
# Of a number of bytes, in decimals: more is no file.
_DIGITS = 18


def lies_outside(tensor: Any) -> bool:
    """Whether the numbers of an onnx.TensorProto lie in another file."""
    return bool(tensor.data_location == EXTERNAL)


def has_outside(proto: Any) -> bool:
    """Whether numbers of an onnx.ModelProto lie in another file."""
    return any(lies_outside(tensor) for tensor in (*proto.graph.initializer, *_inner_tensors(proto)))


def take_outside(proto: Any, path: Path) -> dict[str, Tensor]:
    """Return the weights of a model that lie in files beside it, by name, as views of these files.

    Args:
        proto: an onnx.ModelProto as it was read; what is not returned (small tensors, those of constants and branches,
            numbers of 4 and 8 bits) is read into it.
        path: of its file. Other files are looked for in its folder alone.

    Raises:
        CheckpointError: a file is missing, shorter than a tensor needs, or lies elsewhere; an offset or a length is no
            number, or is not that of the tensor.

    Cost: none of the numbers is read, but for those that come into the model.
    """
    folder, found = _Folder(path), {}
    for tensor in proto.graph.initializer:
        if lies_outside(tensor):
            part = folder.numbers_of(tensor)
            if tensor.data_type in DTYPES and part.nbytes >= SMALL:
                found[tensor.name] = _as_tensor(part, DTYPES[tensor.data_type], list(tensor.dims))
            else:
                _read_in(tensor, part)
    for tensor in _inner_tensors(proto):
        if lies_outside(tensor):
            _read_in(tensor, folder.numbers_of(tensor))
    return found


class OfFile:
    """What was read of a file, and is never changed: replicas of a model share it.

    Args:
        proto: an onnx.ModelProto.
        outside: the weights that lie in files beside it, by name.
    """

    def __init__(self, proto: Any, outside: dict[str, Tensor]) -> None:
        self.proto, self.outside = proto, outside

    def __deepcopy__(self, memo: object) -> "OfFile":
        return self


def without_numbers(graph: Any, names: Collection[str]) -> None:
    """Remove the numbers of some initializers from an onnx.GraphProto: a model holds them, and writes them from there."""
    for tensor in graph.initializer:
        if tensor.name in names:
            kept = type(tensor)(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            tensor.CopyFrom(kept)


def refuse_outside(proto: Any) -> None:
    """Refuse a model in memory whose numbers were left in a file: from which folder they come is not known.

    Raises:
        CheckpointError: some tensor lies outside.
    """
    for tensor in (*proto.graph.initializer, *_inner_tensors(proto)):
        if lies_outside(tensor):
            raise CheckpointError(
                f"{tensor.name}: its numbers lie in another file, {_Place.of(tensor).location!r}: give the path of the "
                "model's file instead, or let onnx.load read them"
            )


@dataclass(frozen=True)
class _Place:
    """Where the numbers of a tensor lie, as its record says; nothing of it is checked yet."""

    location: str
    offset: int = 0
    length: int | None = None

    @classmethod
    def of(cls, tensor: Any) -> "_Place":
        """Read the record of a tensor.

        Raises:
            CheckpointError: an offset or a length is no number of bytes.
        """
        entries = {one.key: one.value for one in tensor.external_data}
        for key in ("offset", "length"):
            said = entries.get(key, "0")
            if not said.isascii() or not said.isdigit() or len(said) > _DIGITS:
                raise CheckpointError(
                    f"{tensor.name}: its {key} in {entries.get('location')!r} is {said!r}, no number of bytes"
                )
        length = int(entries["length"]) if entries.get("length") else None
        return cls(entries.get("location", ""), int(entries.get("offset", "0")), length)


@dataclass(frozen=True)
class _Folder:
    """The files beside a model."""

    model: Path
    files: dict[str, Path] = field(default_factory=dict)

    def numbers_of(self, tensor: Any) -> Any:
        """Return the bytes of a tensor, as a view of the file, of its own: systems refuse one map larger than the memory."""
        place, wanted, shape = _Place.of(tensor), _bytes_of(tensor), list(tensor.dims)
        if place.length not in (None, wanted):
            raise CheckpointError(
                f"{tensor.name}: {place.length} bytes in {place.location!r}, and its shape {shape} takes {wanted}"
            )
        if place.location not in self.files:
            self.files[place.location] = self._file_of(tensor.name, place.location)
        file = self.files[place.location]
        size = file.stat().st_size
        if place.offset + wanted > size:
            raise CheckpointError(
                f"{tensor.name}: {wanted} bytes from byte {place.offset} on, and {place.location!r} ends at {size}: it was "
                "cut short, or is another model's. Fetch it anew"
            )
        # What is written to a copy on write stays in memory.
        return np.memmap(file, np.uint8, "c", place.offset, (wanted,)) if wanted else np.empty(0, np.uint8)

    def _file_of(self, name: str, location: str) -> Path:
        """Return the file of a location, which must not lead out of the folder: neither by its name nor by a link."""
        parts = (*PurePosixPath(location).parts, *PureWindowsPath(location).parts)
        is_elsewhere = PurePosixPath(location).is_absolute() or bool(PureWindowsPath(location).anchor) or ".." in parts
        if not location or is_elsewhere or "\0" in location:
            raise CheckpointError(f"{name}: its numbers lie in {location!r}, which is no name of a file beside the model")
        path = self.model.parent / location
        if not path.is_file():
            raise CheckpointError(f"{name}: its numbers lie in {location!r}, which is not beside the model. Fetch it, too")
        # Caches of the hub link both files from one folder of theirs.
        real, folders = path.resolve(), (self.model.parent.resolve(), self.model.resolve().parent)
        if not any(real.is_relative_to(folder) for folder in folders):
            raise CheckpointError(
                f"{name}: its numbers lie in {location!r}, a link to {real}, outside of the model's folder"
            )
        return real


def _bytes_of(tensor: Any) -> int:
    """Return how many bytes a tensor takes in a file, where two numbers of 4 bits, and four of 2, share one.

    Raises:
        CheckpointError: it holds no numbers, or has no such shape.
    """
    import onnx.helper

    shape = list(tensor.dims)
    try:
        size = 8 * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    except KeyError:
        size = 0
    if not size or tensor.data_type == onnx.TensorProto.STRING or any(extent < 0 for extent in shape):
        raise CheckpointError(
            f"{tensor.name}: no tensor of the shape {shape} that can be read, of the type {tensor.data_type}"
        )
    bits: int = math.prod(shape) * _BITS.get(tensor.data_type, size)
    return -(-bits // 8)


# By numbers of onnx.TensorProto.DataType.
_BITS = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2}


def _as_tensor(part: Any, dtype: torch.dtype, shape: list[int]) -> Tensor:
    """Return bytes as the tensor that they are; a copy where they do not begin at a multiple of its numbers."""
    if part.ctypes.data % dtype.itemsize:
        part = np.array(part)
    found: Tensor = torch.from_numpy(part).view(dtype).view(shape)
    return found


def _read_in(tensor: Any, part: Any) -> None:
    tensor.raw_data = part.tobytes()
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def _inner_tensors(proto: Any) -> Iterator[Any]:
    """Yield the tensors of a model that are no initializers of its graph: those of constants, branches and functions."""
    for node in (*proto.graph.node, *(node for function in proto.functions for node in function.node)):
        yield from _tensors_in(node)


def _tensors_in(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        yield from attribute.tensors
        if attribute.HasField("t"):
            yield attribute.t
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from graph.initializer
            for inner in graph.node:
                yield from _tensors_in(inner)
