"""Write a state dict into a model: all of it, or nothing."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fxmap.errors import FxmapError, LoadError, QuantizationError, shorten
from fxmap.expressions.functions import is_wrapped
from fxmap.expressions.packing import clone, is_object, unpack
from fxmap.expressions.regions import Region, cut
from fxmap.files.lazy import LazyTensor, materialise
from fxmap.forms.qat_norms import divisors
from fxmap.mapping.arrived import loaded_by_own_code, refuse_changed
from fxmap.mapping.contradictions import refuse_contradictions
from fxmap.mapping.findings import Findings
from fxmap.mapping.journal import Journal, bound_of
from fxmap.mapping.lazy_state import is_plain_tensor, storage_of
from fxmap.mapping.narrowing import is_kept, refuse_narrowed
from fxmap.mapping.proof import Status
from fxmap.mapping.saved import Saved
from fxmap.model.restoring import let_through


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of `KeyMapping.load_into`: the keys, in the words of load_state_dict, and the number of tensors written."""

    missing_keys: list[str]
    unexpected_keys: list[str]
    written: int


def write_state(
    dst: nn.Module, full: Mapping[str, Any], made: Collection[str], findings: Findings, *, assign: bool = False
) -> Loaded:
    """Load a full state dict into a model; where that fails, the model gets its old values back.

    Args:
        dst: the model.
        full: the values of all its keys; lazy ones are made one after the other, so that no second model is in memory.
        made: the keys whose values are new, which are checked before anything is written.
        findings: of the mapping, for the keys without a source in the result.
        assign: give the model new tensors, of the dtype that the values have, instead of writing into its own, which may be
            on the meta device.

    Raises:
        LoadError: keys, shapes or dtypes do not fit, or the model refused; the model is as it was.
        QuantizationError: the model was prepared for QAT, and would divide by 0.
    """
    own = dst.state_dict()
    refuse_strangers(made, own)
    for key in made:
        check_fits(key, full[key], own[key], assign=assign)
    refuse_contradictions(dst, made, full, own)
    refuse_zero_divisors({key: full[key] for key in divisors(dst) if key in made})
    full = full if assign else _read_first(full, own)
    theirs = loaded_by_own_code(dst, own)

    def arrived() -> None:
        refuse_changed(dst, [key for key in theirs if key in made], full, findings)

    if assign:
        assign_state(dst, full, own, made, arrived)
    elif all(map(is_plain_tensor, own.values())):
        _write_one_by_one(dst, full, own, theirs, arrived)
    else:
        # Code of their own may keep, or change, the tensor that it is given.
        _write_at_once(dst, dict(full) | {key: snapshot(full[key]) for key in theirs}, own, arrived)
    absent = [*findings.keys_with(Status.MISSING), *findings.keys_with(Status.MISMATCHED)]
    return Loaded(absent, list(findings.unexpected), len(made))


def refuse_strangers(made: Collection[str], own: Mapping[str, Any]) -> None:
    """Refuse a mapping that makes nothing, or keys that a model does not have.

    Raises:
        LoadError: with the first keys.
    """
    if not made:
        raise LoadError(f"0 of {len(own)} tensors would be written: the mapping is empty. Nothing was changed")
    strangers = [key for key in made if key not in own]
    if strangers:
        raise LoadError(
            f"{shorten(strangers)}: not in the destination, which has {len(own)} keys: this is another model's mapping. "
            "Nothing was written; make it anew with fxmap.auto_map"
        )


def _write_at_once(dst: nn.Module, full: Mapping[str, Any], own: Mapping[str, Any], arrived: Callable[[], None]) -> None:
    """Load a state dict with packed or quantized entries; all values of the model are copied beforehand."""
    saved = Saved.of(dst)
    try:
        load_state(dst, full, getattr(own, "_metadata", None))
        arrived()
    except BaseException as error:
        put_back(saved, dst, error)


def _write_one_by_one(
    dst: nn.Module, full: Mapping[str, Any], own: Mapping[str, Any], theirs: Collection[str], arrived: Callable[[], None]
) -> None:
    """Load a state dict of plain tensors, each of which is made, and its old value saved, when torch is about to copy it."""
    failed: list[Exception] = []
    saved = Saved.of(dst, values=False)
    with Journal(bound_of(own.values())) as journal:

        def guarded(key: str, value: Tensor) -> Tensor:
            def make(region: Region) -> Tensor:
                if failed:
                    raise failed[0]  # torch goes on after an error: nothing else is read
                try:
                    journal.save(key, own[key])
                    made: Tensor = materialise(cut(value, region))
                except Exception as error:
                    failed.append(error)
                    raise
                return made

            return LazyTensor(value.shape, value.dtype, make)

        new = {key: value if _is_same(value, own[key]) else guarded(key, value) for key, value in full.items()}
        for key in theirs:
            journal.save(key, own[key])
            # Such code may keep, or change, the tensor that it is given.
            new[key] = snapshot(materialise(full[key]))
        try:
            load_state(dst, new, getattr(own, "_metadata", None))
            arrived()
        except BaseException as error:
            cause = failed[0] if failed and isinstance(error, Exception) else error
            put_back(Saved((*saved.steps, *journal.steps())), dst, cause)


def _refused(dst: nn.Module, error: BaseException) -> FxmapError:
    if isinstance(error, FxmapError):
        return type(error)(f"{error}. {type(dst).__name__} has its old values again")
    return LoadError(f"{type(dst).__name__} refused the state dict; its old values were put back: {error}")


def assign_state(
    dst: nn.Module, full: Mapping[str, Any], own: Mapping[str, Any], made: Collection[str], arrived: Callable[[], None]
) -> None:
    """Give a model new tensors; keys of one parameter stay one. All are made before the first is assigned.

    Raises:
        LoadError: a key without a new value is on the meta device; or the model refused, and has its old tensors.
    """
    parameters = dict(dst.named_parameters(remove_duplicate=False))
    new: dict[int, Any] = {}
    for key in made:
        place = id(parameters.get(key, key))
        if place not in new:
            new[place] = _of_its_own(full[key])
            if key in parameters:
                new[place] = nn.Parameter(new[place], requires_grad=parameters[key].requires_grad)
    values = {key: new.get(id(parameters.get(key, key)), value) for key, value in full.items()}
    absent = [key for key, value in values.items() if isinstance(value, Tensor) and value.is_meta]
    if absent:
        raise LoadError(
            f"{shorten(absent)}: no value is made for it, and the destination is on the meta device, where it has none. "
            "Nothing was written; give these keys memory and values first"
        )
    before = [(holder, dict(holder)) for module in dst.modules() for holder in (module._parameters, module._buffers)]
    try:
        load_state(dst, values, getattr(own, "_metadata", None), assign=True)
        arrived()
    except BaseException as error:
        for holder, old in before:
            holder.update(old)  # type: ignore[arg-type]
        if isinstance(error, Exception):
            raise _refused(dst, error) from error
        raise


def _of_its_own(value: Any) -> Any:
    """Return the numbers in memory of their own: not the source's, nor a part of a larger tensor."""
    if isinstance(value, LazyTensor):
        made = value.read()
        return made if made.untyped_storage().nbytes() == made.numel() * made.element_size() else made.clone()
    return snapshot(value)


def put_back(saved: Saved, dst: nn.Module, error: BaseException) -> NoReturn:
    """Put back what a model held after an error, once more where that is interrupted.

    Raises:
        LoadError: of an exception that is no interrupt; or some values could not be put back, and the message names them.
    """
    try:
        _put_back(saved, dst, error)
    except BaseException:
        saved.put_back()  # an interrupt may have come before the first
        raise


def _put_back(saved: Saved, dst: nn.Module, error: BaseException) -> NoReturn:
    lost, interrupt = saved.put_back()
    if lost:
        raise LoadError(
            f"{shorten(lost)}: could not be put back after {type(error).__name__}: {error}; the destination is half-written "
            "there, and as it was everywhere else. Build it anew before you load again"
        ) from error
    if interrupt is not None and isinstance(error, Exception):
        raise interrupt
    let_through(error)
    raise _refused(dst, error) from error


def _read_first(full: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Copy values that lie in the model's own tensors: it may be its own source, or share modules with that.

    Written one after the other, the first ones would change what the others are read from.
    """
    places = {storage_of(value) for value in own.values()} - {None}
    return {
        key: snapshot(value) if storage_of(value) in places and not _is_same(value, own.get(key)) else value
        for key, value in full.items()
    }


def _is_same(value: Any, own: Any) -> bool:
    """Whether a value is the model's own tensor, which need not be written."""
    if value is own:
        return True
    place = storage_of(value)
    return place is not None and place == storage_of(own) and _layout(value) == _layout(own)


def _layout(value: Tensor) -> tuple[Any, ...]:
    return value.dtype, value.shape, value.stride(), value.storage_offset()


def check_fits(key: str, value: Any, own: Any, *, assign: bool = False, numbers: bool = True) -> None:
    """Check that a value can replace a model's own value of that key; with `assign`, that one may be without memory.

    Without `numbers`, they are not read where the destination's dtype may not hold them.

    Raises:
        LoadError: shape, dtype or kind differ, there are no values, or the dtype does not hold them.
    """
    if isinstance(own, Tensor) != isinstance(value, Tensor):
        raise LoadError(f"{key}: source {type(value).__name__}, destination {type(own).__name__}. Nothing was written")
    if not isinstance(value, Tensor):
        _check_parts_fit(key, value, own)
        return
    if value.is_nested:
        raise LoadError(
            f"{key}: source nested tensor, which has no one shape, destination {list(own.shape)}. Nothing was written"
        )
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
    differ = value.is_floating_point() != own.is_floating_point() or torch.bool in (value.dtype, own.dtype)
    if value.dtype != own.dtype and differ and (assign or not numbers or not is_kept(value, own)):
        raise LoadError(
            f"{key}: source {value.dtype}, destination {own.dtype}: the values would change. Nothing was written; convert "
            "the source tensor first, if that is meant"
        )
    if value.is_meta:
        raise LoadError(f"{key}: the source is on the meta device and has no values. Nothing was written")
    if own.is_meta and not assign:
        raise LoadError(
            f"{key}: the destination is on the meta device, where nothing can be written. Pass assign=True, or give it "
            'memory first: dst.to_empty(device="cpu")'
        )
    if numbers and not assign and value.dtype != own.dtype and not differ:
        refuse_narrowed(key, materialise(value), own)


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


def load_state(dst: nn.Module, full: Mapping[str, Any], metadata: Any, *, assign: bool = False) -> None:
    """Load a full state dict with its `_metadata`, by torch's own load_state_dict."""
    ordered = OrderedDict(full)
    if metadata is not None:
        ordered._metadata = metadata  # type: ignore[attr-defined]
    with torch.no_grad():
        # nn.Module's own: some models override load_state_dict to rename keys, which are right already.
        nn.Module.load_state_dict(dst, ordered, strict=True, assign=assign)
