"""Files of Flax: MessagePack, with a type of its own for arrays; read by the package msgpack, without Flax."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxmap.errors import CheckpointError
from fxmap.files.arrays import dtype_of, library, tensor_of, weights_of
from fxmap.files.format import Format, reason_of

# The types of flax.serialization, and its name for arrays that are too large for one value.
_ARRAY, _SCALAR = 1, 3
_CHUNKED = "__msgpack_chunked_array__"


def _read(path: Path) -> Mapping[str, Any]:
    msgpack = library("msgpack", "'fxmap[flax]'", path)

    def value_of(kind: int, data: bytes) -> Any:
        if kind not in (_ARRAY, _SCALAR):
            return None  # a complex number, or what another program added: no weight
        shape, name, numbers = msgpack.unpackb(data, strict_map_key=False)
        return _array(tuple(shape), str(name), numbers)

    try:
        with path.open("rb") as file:
            tree = msgpack.unpackb(file.read(), ext_hook=value_of, strict_map_key=False)
        if not isinstance(tree, Mapping):
            raise TypeError(f"it holds a {type(tree).__name__}, and no tree of arrays")
        found = weights_of(_whole(tree))
    except Exception as error:  # msgpack's own kinds of errors, and what damaged arrays raise
        raise CheckpointError(f"{path}: not a readable file of Flax: {reason_of(error)}") from error
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _array(shape: tuple[int, ...], name: str, numbers: bytes) -> Tensor:
    if name == "bfloat16":
        array = np.frombuffer(numbers, dtype=np.int16)
        return torch.from_numpy(array.copy()).view(torch.bfloat16).reshape(shape)
    dtype = np.dtype(name)
    if dtype_of(dtype) is None:
        raise ValueError(f"an array of {name}")
    if any(extent < 0 for extent in shape) or prod(shape) * dtype.itemsize != len(numbers):
        raise ValueError(f"an array of the shape {shape} with {len(numbers)} bytes")
    return tensor_of(np.frombuffer(numbers, dtype=dtype).reshape(shape))


def _whole(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Put arrays together that were written in chunks, which Flax does above a gigabyte."""
    return {str(key): _joined(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _joined(value: Mapping[Any, Any]) -> Any:
    if _CHUNKED not in value:
        return _whole(value)
    shape, chunks = value["shape"], value["chunks"]
    parts = [chunks[str(place)] for place in range(len(chunks))]
    return torch.cat(parts).reshape([int(shape[str(place)]) for place in range(len(shape))])


FLAX = Format(
    name="Flax",
    suffixes=(".msgpack",),
    holds="trees of arrays, as Flax serialises them",
    read=_read,
)
