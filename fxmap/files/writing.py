"""Write a state dict to a file, whole or not at all."""

import os
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fxmap.errors import CheckpointError, shorten
from fxmap.expressions.functions import is_wrapped
from fxmap.expressions.packing import is_object
from fxmap.files.quantized import ENTRY, flatten
from fxmap.files.reading import reason_of


def save(state: Mapping[str, Any], path: str | Path, *, overwrite: bool = False) -> None:
    """Write a state dict to a .safetensors file, or as torch.save does (.pt, .pth, .bin); atomically.

    Dtypes are kept, and so are quantized tensors: .safetensors holds their integers, scales, zero points and axis, and what
    `open_checkpoint` rebuilds of them is equal bit for bit. `_metadata` is kept. Keys that share a tensor stay tied in a
    file of torch.save; in .safetensors, which has no such thing, each has its own copy. The file appears under its name when
    it is complete.

    Raises:
        CheckpointError: the file is there already, its name ends in something else, or it cannot be written; nothing was
            changed. Also where the format cannot hold a value, such as a tensor subclass in .safetensors.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".pt", ".pth", ".bin"):
        raise CheckpointError(f"{path}: the name must end in .safetensors, .pt, .pth or .bin, which says the format")
    if path.exists() and not overwrite:
        raise CheckpointError(
            f"{path}: there already, not overwritten. Choose another name, or say overwrite=True (--force)"
        )
    metadata = {"format": "pt"}
    if path.suffix == ".safetensors":
        values, description = _flat(state, path)
        # Plain tensors alone need none; but observers and packed layers read the versions in `_metadata`.
        if hasattr(state, "_metadata") or values.keys() != state.keys():
            metadata[ENTRY] = description
    else:
        values = _compact(state, path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error
    os.close(handle)
    try:
        if path.suffix == ".safetensors":
            save_file(values, name, metadata=metadata)
        else:
            torch.save(values, name)
        # A file of mkstemp is for its owner alone; what the user asked for has the usual rights.
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot be written: {reason_of(error)}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flat(state: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        return flatten(state)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}, and .safetensors holds plain tensors alone. Write a .pth file") from error


def _compact(state: Mapping[str, Any], path: Path) -> "OrderedDict[str, Any]":
    """Copy views, so that a slice does not bring all of its tensor with it; tensors that are tied stay so."""
    objects = [key for key, value in state.items() if is_object(value)]
    if objects:
        raise CheckpointError(
            f"{path}: {shorten(objects)}: packed parameters of a recurrent layer, which torch.load with weights_only=True "
            "refuses to read again. Write a .safetensors file, where fxmap keeps their parts"
        )
    copies: dict[tuple[Any, ...], Tensor] = {}
    result: OrderedDict[str, Any] = OrderedDict()
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.is_quantized or is_wrapped(value) or value.layout != torch.strided:
            result[key] = value
            continue
        place = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride(), value.dtype)
        known = place if value.numel() else (key,)
        result[key] = copies.setdefault(known, value.detach().clone())
    if hasattr(state, "_metadata"):
        result._metadata = state._metadata  # type: ignore[attr-defined]
    return result
