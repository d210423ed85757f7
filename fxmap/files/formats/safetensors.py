"""The .safetensors format: plain tensors by name, and fxmap's JSON description of quantized and packed values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fxmap.errors import CheckpointError
from fxmap.files.format import CannotHold, Format, reason_of
from fxmap.files.quantized import ENTRY, flatten, rebuild


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
            description = (file.metadata() or {}).get(ENTRY)
        return tensors if description is None else rebuild(tensors, description)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {reason_of(error)}") from error


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
    failures=(SafetensorError,),
)
