"""The format of torch.save, read with `weights_only=True`, so that no code of the file runs."""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.errors import CheckpointError, shorten
from fxmap.expressions.functions import is_wrapped
from fxmap.expressions.packing import is_object
from fxmap.expressions.regions import cut
from fxmap.files.format import CannotHold, Format, is_text, reason_of
from fxmap.files.growth import refuse_growth
from fxmap.files.lazy import LazyTensor
from fxmap.files.limits import check_contents
from fxmap.files.stored import Stored
from fxmap.files.unchanged import Stamp


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


def _lazy(path: Path) -> Any:
    """Read the file without the numbers of its tensors, whose places torch tells for files that are zip archives."""
    if not is_text(path) or not zipfile.is_zipfile(path):
        return _read(path)
    try:
        stamp = Stamp.of(path)
        data = torch.load(path, map_location="meta", weights_only=True)
    except Exception:
        return _read(path)  # which says what is wrong
    check_contents(data, str(path))
    try:
        return _with_places(data, lambda offset, shape, dtype: Stored(path, stamp, offset, shape, dtype))
    except ValueError:
        return _read(path)  # quantized tensors, other layouts, an older torch


_Stored = Callable[[int, tuple[int, ...], torch.dtype], Stored]


def _with_places(data: Any, stored: _Stored) -> Any:
    """Replace tensors without numbers, in nested containers, by lazy ones.

    Raises:
        ValueError: the place of one is not known.
    """
    if isinstance(data, Tensor):
        return _place(data, stored)
    if isinstance(data, dict):
        made: dict[Any, Any] = type(data)((key, _with_places(value, stored)) for key, value in data.items())
        if isinstance(metadata := getattr(data, "_metadata", None), Mapping):
            made._metadata = metadata  # type: ignore[attr-defined]
        return made
    if isinstance(data, list | tuple) and type(data) in (list, tuple):
        return type(data)(_with_places(value, stored) for value in data)
    return data


def _place(value: Tensor, stored: _Stored) -> LazyTensor:
    offset = getattr(value.untyped_storage(), "_checkpoint_offset", None) if value.layout == torch.strided else None
    if offset is None or value.is_quantized or type(value) not in (Tensor, nn.Parameter) or value.is_conj():
        raise ValueError("the place of a tensor is not known")
    first = offset + value.storage_offset() * value.element_size()
    if value.is_contiguous():
        return stored(first, tuple(value.shape), value.dtype).lazy()
    last = sum((extent - 1) * stride for extent, stride in zip(value.shape, value.stride(), strict=True))
    span, shape, strides = stored(first, (last + 1,), value.dtype), tuple(value.shape), value.stride()
    return LazyTensor(
        shape, value.dtype, lambda part: cut(span.read(((0, last + 1),)).as_strided(shape, strides), part).clone()
    )


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
    lazy=_lazy,
    write=_write,
    any_name=True,
    guard=refuse_growth,
)
