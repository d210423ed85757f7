"""Quantized state dicts as plain tensors and a description, for files that hold nothing else (safetensors), and back.

A quantized tensor becomes its integers, scales, zero points and axis; a packed entry its parts. The rebuilt state dict is
equal bit for bit, `_metadata` included, without which torch refuses packed layers.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fxmap.expressions.functions import is_wrapped
from fxmap.expressions.packing import clone, is_object, kind_of_object, pack, unpack
from fxmap.expressions.qparams import check_qparams

# The entry of a file's metadata, and between a key and the name of a part: no key of a module has this in it.
ENTRY, MARK = "fxmap.state_dict", "#"


_FORMAT = 1


def flatten(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a state dict by name, and its description as JSON.

    Raises:
        ValueError: a value cannot be described; the message says which and why.
    """
    tensors: dict[str, Tensor] = {}
    entries = {key: _flatten(key, value, tensors) for key, value in state.items()}
    metadata = getattr(state, "_metadata", None)
    return tensors, json.dumps({"format": _FORMAT, "entries": entries, "metadata": metadata})


def _flatten(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    if value is None:
        return None
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, tuple):
        return {"parts": [_flatten(f"{name}{MARK}{i}", part, tensors) for i, part in enumerate(value)]}
    if is_object(value):
        parts = unpack(value)
        return {
            "object": kind_of_object(parts),
            "parts": [_flatten(f"{name}{MARK}{i}", part, tensors) for i, part in enumerate(parts)],
        }
    if not isinstance(value, Tensor) or is_wrapped(value):
        raise ValueError(f"{name} is a {type(value).__name__}, which has no plain parts that are known here")
    if not value.is_quantized:
        tensors[name] = _contiguous(value)
        return {"tensor": name}
    return _flatten_quantized(name, value, tensors)


def _flatten_quantized(name: str, value: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if value.dtype not in (torch.qint8, torch.quint8, torch.qint32):
        raise ValueError(f"{name} is {value.dtype}, whose integers share bytes")
    qscheme = str(value.qscheme()).removeprefix("torch.")
    entry: dict[str, Any] = {"quantized": name, "dtype": str(value.dtype).removeprefix("torch."), "qscheme": qscheme}
    tensors[f"{name}{MARK}integers"] = _contiguous(value.int_repr())
    if qscheme.startswith("per_channel"):
        entry["axis"] = value.q_per_channel_axis()
        tensors[f"{name}{MARK}scales"] = value.q_per_channel_scales().clone()
        tensors[f"{name}{MARK}zero_points"] = value.q_per_channel_zero_points().clone()
    else:
        tensors[f"{name}{MARK}scales"] = torch.tensor(value.q_scale(), dtype=torch.float64)
        tensors[f"{name}{MARK}zero_points"] = torch.tensor(value.q_zero_point())
    return entry


def _contiguous(value: Tensor) -> Tensor:
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def rebuild(tensors: Mapping[str, Tensor], description: str) -> "OrderedDict[str, Any]":
    """Rebuild a state dict from the tensors and the description that `flatten` returned.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: the description is not one, or does not fit the tensors.
    """
    data = json.loads(description)
    # Each tensor is used once: entries that name one again would make any amount of memory of a small file.
    tensors = dict(tensors)
    if data["format"] != _FORMAT:
        raise ValueError(f"a quantized state dict of format {data['format']!r}; this fxmap reads format {_FORMAT}")
    state: OrderedDict[str, Any] = OrderedDict(
        (str(key), _rebuild(entry, tensors)) for key, entry in data["entries"].items()
    )
    if data["metadata"] is not None:
        state._metadata = OrderedDict(data["metadata"])  # type: ignore[attr-defined]
    return state


def _rebuild(entry: Any, tensors: dict[str, Tensor]) -> Any:
    if entry is None:
        return None
    if "dtype" in entry and len(entry) == 1:
        return _named(entry["dtype"], torch.dtype)
    if "tensor" in entry:
        return tensors.pop(entry["tensor"])
    if "quantized" in entry:
        return _rebuild_quantized(entry, tensors)
    parts = tuple(_rebuild(part, tensors) for part in entry["parts"])
    return pack(entry["object"], parts) if "object" in entry else parts


def _rebuild_quantized(entry: Mapping[str, Any], tensors: dict[str, Tensor]) -> Tensor:
    name, dtype, qscheme = entry["quantized"], _named(entry["dtype"], torch.dtype), _named(entry["qscheme"], torch.qscheme)
    integers, scales, zero_points = (tensors.pop(f"{name}{MARK}{part}") for part in ("integers", "scales", "zero_points"))
    axis = _axis(entry, qscheme)
    try:
        check_qparams(integers.shape, dtype, scales, zero_points, axis)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if zero_points.is_floating_point() != (qscheme is torch.per_channel_affine_float_qparams):
        raise ValueError(f"{name}: zero points of {zero_points.dtype} for {qscheme}")
    if axis is None:
        made = torch._make_per_tensor_quantized_tensor(integers, scales.item(), int(zero_points.item()))
    elif qscheme is torch.per_channel_affine_float_qparams:
        shape = [-1 if own == axis else 1 for own in range(integers.dim())]
        value = (integers - zero_points.reshape(shape)) * scales.reshape(shape)
        return torch.quantize_per_channel(value, scales, zero_points, axis, dtype)
    else:
        made = torch._make_per_channel_quantized_tensor(integers, scales, zero_points, axis)
    if made.dtype is not dtype or made.shape != integers.shape:
        raise ValueError(f"{name}: integers of {integers.dtype} do not make {dtype}")
    return clone(made)


def _axis(entry: Mapping[str, Any], qscheme: torch.qscheme) -> int | None:
    """Return the axis of the scales, None where there is one for all; zero points are of the scheme's kind."""
    per_channel = str(qscheme).startswith("torch.per_channel")
    if per_channel != ("axis" in entry) or (per_channel and type(entry["axis"]) is not int):
        raise ValueError(f"{entry['quantized']}: {qscheme} with axis {entry.get('axis')!r}")
    return entry["axis"] if per_channel else None


def _named(name: object, kind: type) -> Any:
    value = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(value, kind):
        raise ValueError(f"{name!r} is no {kind.__name__} of torch")  # noqa: TRY004 - a fault of the file
    return value
