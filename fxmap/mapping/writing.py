"""Write a state dict into a model: all of it, or nothing."""

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fxmap.errors import LoadError, QuantizationError, shorten
from fxmap.expressions.functions import is_wrapped
from fxmap.expressions.packing import clone, is_object, unpack
from fxmap.forms.qat_norms import divisors
from fxmap.mapping.findings import Findings
from fxmap.mapping.narrowing import refuse_narrowed
from fxmap.mapping.proof import Status
from fxmap.mapping.saved import Saved
from fxmap.model.restoring import let_through


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of `KeyMapping.load_into`: the keys, in the words of load_state_dict, and the number of tensors written."""

    missing_keys: list[str]
    unexpected_keys: list[str]
    written: int


def write_state(dst: nn.Module, full: Mapping[str, Any], made: Collection[str], findings: Findings) -> Loaded:
    """Load a full state dict into a model; where that fails, the model gets its old values back.

    Args:
        dst: the model.
        full: the values of all its keys.
        made: the keys whose values are new, which are checked before anything is written.
        findings: of the mapping, for the keys without a source in the result.

    Raises:
        LoadError: keys, shapes or dtypes do not fit, or the model refused; the model is as it was.
        QuantizationError: the model was prepared for QAT, and would divide by 0.
    """
    own = dst.state_dict()
    if not made:
        raise LoadError(f"0 of {len(own)} tensors would be written: the mapping is empty. Nothing was changed")
    strangers = [key for key in made if key not in own]
    if strangers:
        raise LoadError(
            f"{shorten(strangers)}: not in the destination, which has {len(own)} keys: this is another model's mapping. "
            "Nothing was written; make it anew with fxmap.auto_map"
        )
    for key in made:
        check_fits(key, full[key], own[key])
    refuse_zero_divisors({key: full[key] for key in divisors(dst) if key in made})
    full = _read_first(full, own)
    metadata, saved = getattr(own, "_metadata", None), Saved.of(dst)
    try:
        load_state(dst, full, metadata)
    except BaseException as error:
        try:
            put_back(saved, dst, error)
        except BaseException:
            saved.put_back()  # once more: an interrupt may have come before the first
            raise
    absent = [*findings.keys_with(Status.MISSING), *findings.keys_with(Status.MISMATCHED)]
    return Loaded(absent, list(findings.unexpected), len(made))


def put_back(saved: Saved, dst: nn.Module, error: BaseException) -> NoReturn:
    """Put back what a model held after an error.

    Raises:
        LoadError: of an exception that is no interrupt; or some values could not be put back, and the message names them.
    """
    lost, interrupt = saved.put_back()
    if lost:
        raise LoadError(
            f"{shorten(lost)}: could not be put back after {type(error).__name__}: {error}; the destination is half-written "
            "there, and as it was everywhere else. Build it anew before you load again"
        ) from error
    if interrupt is not None and isinstance(error, Exception):
        raise interrupt
    let_through(error)
    raise LoadError(f"{type(dst).__name__} refused the state dict; its old values were put back: {error}") from error


def _read_first(full: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Copy values that lie in the model's own tensors: it may be its own source, or share modules with that.

    Written one after the other, the first ones would change what the others are read from.
    """
    places = {_storage(value) for value in own.values()} - {None}
    return {
        key: snapshot(value) if value is not own.get(key) and _storage(value) in places else value
        for key, value in full.items()
    }


def _storage(value: Any) -> int | None:
    plain = isinstance(value, Tensor) and not value.is_meta and value.layout == torch.strided and not is_wrapped(value)
    return value.untyped_storage().data_ptr() or None if plain else None


def check_fits(key: str, value: Any, own: Any) -> None:
    """Check that a value can replace a model's own value of that key.

    Raises:
        LoadError: shape, dtype or kind differ, there are no values, or the dtype does not hold them.
    """
    if isinstance(own, Tensor) != isinstance(value, Tensor):
        raise LoadError(f"{key}: source {type(value).__name__}, destination {type(own).__name__}. Nothing was written")
    if not isinstance(value, Tensor):
        _check_parts_fit(key, value, own)
        return
    if is_wrapped(value) != is_wrapped(own):
        raise LoadError(
            f"{key}: source {type(value).__name__}, destination {type(own).__name__}: the destination's quantization "
            "would be dropped, or ignored. Nothing was written; make the values with "
            "mapping.apply(state_dict, like=dst.state_dict())"
        )
    if value.shape != own.shape:
        raise LoadError(f"{key}: source {list(value.shape)}, destination {list(own.shape)}. Nothing was written")
    if value.is_quantized != own.is_quantized or (value.is_complex() and not own.is_complex()):
        raise LoadError(f"{key}: source {value.dtype}, destination {own.dtype}. Nothing was written")
    if value.is_quantized and (value.dtype, _scaled_in_float(value)) != (own.dtype, _scaled_in_float(own)):
        raise LoadError(
            f"{key}: source {value.dtype} {value.qscheme()}, destination {own.dtype} {own.qscheme()}: torch would take it, "
            "and read it wrongly. Nothing was written"
        )
    if value.dtype != own.dtype and (
        value.is_floating_point() != own.is_floating_point() or torch.bool in (value.dtype, own.dtype)
    ):
        raise LoadError(
            f"{key}: source {value.dtype}, destination {own.dtype}: the values would change. Nothing was written; convert "
            "the source tensor first, if that is meant"
        )
    if value.is_meta:
        raise LoadError(f"{key}: the source is on the meta device and has no values. Nothing was written")
    if own.is_meta:
        raise LoadError(
            f"{key}: the destination is on the meta device, where nothing can be written. Give it memory first: "
            'dst.to_empty(device="cpu")'
        )
    refuse_narrowed(key, value, own)


def refuse_zero_divisors(norms: Mapping[str, Tensor]) -> None:
    """Raise an error if a weight is 0 in a batch norm by which a model prepared for QAT divides."""
    zeros = {key: count for key, weight in norms.items() if (count := int((weight == 0).sum()))}
    if zeros:
        raise QuantizationError(
            f"{shorten(list(zeros))}: {next(iter(zeros.values()))} channels of this batch norm have the weight 0, by which "
            "models that are prepared for QAT divide: forward would give NaN. Nothing was written. Give these channels a "
            "small weight in the source first"
        )


def _scaled_in_float(value: Tensor) -> bool:
    """Whether a quantized tensor has the floating-point zero points of an embedding."""
    return value.qscheme() is torch.per_channel_affine_float_qparams


def _check_parts_fit(key: str, value: Any, own: Any) -> None:
    """Check packed entries part by part, since torch does not check them."""
    if not all(isinstance(entry, tuple) or is_object(entry) for entry in (value, own)):
        return
    ours, theirs = unpack(value), unpack(own)
    if len(ours) != len(theirs):
        raise LoadError(f"{key}: source {len(ours)} packed parts, destination {len(theirs)}. Nothing was written")
    for index, (part, other) in enumerate(zip(ours, theirs, strict=True)):
        check_fits(f"{key}[{index}]", part, other)


def snapshot(value: Any) -> Any:
    """Copy a value of a state dict."""
    if isinstance(value, Tensor):
        return clone(value)
    return tuple(snapshot(part) for part in value) if isinstance(value, tuple) else value


def load_state(dst: nn.Module, full: Mapping[str, Any], metadata: Any) -> None:
    """Load a full state dict with its `_metadata`, by torch's own load_state_dict."""
    ordered = OrderedDict(full)
    if metadata is not None:
        ordered._metadata = metadata  # type: ignore[attr-defined]
    with torch.no_grad():
        # nn.Module's own: some models override load_state_dict to rename keys, which are right already.
        nn.Module.load_state_dict(dst, ordered, strict=True)
