"""The format of torch.save, read with `weights_only=True`, so that no code of the file runs."""

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import CheckpointError, shorten
from fxmap.expressions.functions import is_wrapped
from fxmap.expressions.packing import is_object
from fxmap.files.format import CannotHold, Format, is_text, reason_of
from fxmap.files.growth import refuse_growth


def _read(path: Path) -> Any:
    try:
        with ExitStack() as stack:
            file = path if is_text(path) else stack.enter_context(path.open("rb"))
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, error)) from error
    except Exception as error:
        # A damaged pickle fails in whatever way its bytes say: each of them is a fault of the file.
        raise CheckpointError(f"{path}: not a readable checkpoint: {reason_of(error)}") from error


def _refusal(path: Path, error: pickle.UnpicklingError) -> str:
    """Return the message for a file whose unpickling would run code: the globals that it imports, and the way out."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        # An older format, or a damaged file: the message of torch names the first global, if that is the reason.
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]
    if not names:
        return (
            f"{path}: not a readable checkpoint: neither torch.save nor safetensors wrote it, or it is damaged, or it holds "
            "objects of a kind that is not read. Download it anew, or save the weights alone where it comes from: "
            "torch.save(model.state_dict(), path)"
        )
    return (
        f"{path}: refused: it holds more than tensors, and reading it would run code: it wants {shorten(sorted(names))}. "
        "Where the file comes from, save the weights alone: torch.save(model.state_dict(), path). If you trust whoever made "
        "it, do that yourself after torch.load(path, weights_only=False), in a process of its own"
    )


def _write(state: Mapping[str, Any], path: Path) -> None:
    objects = [key for key, value in state.items() if is_object(value)]
    if objects:
        raise CannotHold(
            f"{shorten(objects)}: packed parameters of a recurrent layer, which torch.load with weights_only=True "
            "refuses to read again. Write a .safetensors file, where fxmap keeps their parts"
        )
    torch.save(_compact(state), path)


def _compact(state: Mapping[str, Any]) -> "OrderedDict[str, Any]":
    """Copy views, so that a slice does not bring all of its tensor with it; tensors that are tied stay so."""
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


TORCH_SAVE = Format(
    name="torch.save",
    suffixes=(".pt", ".pth", ".bin"),
    holds="tensors of every kind and dtype, tied ones as one, but no packed recurrent layers",
    read=_read,
    write=_write,
    any_name=True,
    guard=refuse_growth,
)
