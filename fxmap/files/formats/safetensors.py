"""The .safetensors format: plain tensors by name, and fxmap's JSON description of quantized and packed values."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from fxmap.errors import CheckpointError
from fxmap.files.format import CannotHold, Format, is_text, reason_of
from fxmap.files.quantized import ENTRY, flatten, rebuild
from fxmap.files.stored import Stored
from fxmap.files.unchanged import Stamp
from fxmap.model.tensors import bytes_of

_FAULTS = (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError, OverflowError)

# Of the number at the start of a file, which says how long its header is.
_LENGTH = 8


def _read(path: Path) -> Mapping[str, Any]:
    try:
        tensors, metadata = _mapped(path) if is_text(path) else _from_bytes(path)
        description = metadata.get(ENTRY)
        return tensors if description is None else rebuild(tensors, description)
    except _FAULTS as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {reason_of(error)}") from error


def _mapped(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Read the tensors into memory of their own, and the metadata.

    What the library returns is mapped to the file: whoever writes that changes them, whoever cuts it ends the process. It
    serves for names, dtypes and shapes, all of which the library has checked, and is not looked into.
    """
    with path.open("rb") as file, safe_open(path, framework="pt") as checked:
        length = int.from_bytes(file.read(_LENGTH), "little")
        header = json.loads(file.read(length))
        tensors: dict[str, Tensor] = {}
        for key in checked.keys():  # noqa: SIM118 - it is no mapping
            own = torch.empty_like(checked.get_tensor(key), memory_format=torch.contiguous_format)
            begin, end = header[key]["data_offsets"]
            file.seek(_LENGTH + length + begin)
            if own.nbytes != end - begin or file.readinto(bytes_of(own)) != own.nbytes:
                raise ValueError(f"{key}: the file ends before its {end - begin} bytes")
            tensors[key] = own
        return tensors, checked.metadata() or {}


def _lazy(path: Path) -> Mapping[str, Any]:
    """Return lazy tensors; quantized values are put together from their parts, which is read."""
    if not is_text(path):
        return _read(path)
    try:
        stamp = Stamp.of(path)
        with path.open("rb") as file, safe_open(path, framework="pt") as checked:
            length = int.from_bytes(file.read(_LENGTH), "little")
            header, first = json.loads(file.read(length)), _LENGTH + length
            tensors = {
                key: _stored(path, stamp, first + header[key]["data_offsets"][0], checked.get_tensor(key)).lazy()
                for key in checked.keys()  # noqa: SIM118 - it is no mapping
            }
            description = (checked.metadata() or {}).get(ENTRY)
        return tensors if description is None else rebuild(tensors, description)
    except _FAULTS as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {reason_of(error)}") from error


def _stored(path: Path, stamp: Stamp, offset: int, mapped: Tensor) -> Stored:
    return Stored(path, stamp, offset, tuple(mapped.shape), mapped.dtype)


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of a file, without fxmap's own; empty where there is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: value for key, value in (file.metadata() or {}).items() if key != ENTRY}
    except _FAULTS as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {reason_of(error)}") from error


def _from_bytes(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Read a file whose name the library cannot be told; takes twice its size."""
    data = path.read_bytes()
    tensors = load(data)
    header = json.loads(data[_LENGTH : _LENGTH + int.from_bytes(data[:_LENGTH], "little")])
    return tensors, header.get("__metadata__") or {}


def _write(state: Mapping[str, Any], path: Path) -> None:
    try:
        values, description = flatten(state)
    except ValueError as error:
        raise CannotHold(f"{error}, and .safetensors holds plain tensors alone. Write a .pth file") from error
    metadata = {"format": "pt"}
    # Plain tensors alone need none; but observers and packed layers read the versions in `_metadata`.
    if hasattr(state, "_metadata") or values.keys() != state.keys():
        metadata[ENTRY] = description
    save_file(values, path, metadata=metadata)


SAFETENSORS = Format(
    name="safetensors",
    suffixes=(".safetensors",),
    holds="tensors, and quantized or packed values as their parts, which are rebuilt bit for bit",
    read=_read,
    write=_write,
    lazy=_lazy,
    failures=(SafetensorError,),
)
