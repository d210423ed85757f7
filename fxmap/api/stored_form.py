"""Stored form: whether a model's state dict holds the tensors that its code reads, or something that is made of them.

A hook, or an overridden method, may store a weight transposed, doubled or in other rows, and undo that when it is loaded. A
proof runs the tensors that the code reads, so that it says nothing of such a key of a file: what is loaded is what the model
reads after it has loaded the file by its own code.

>>> class Doubled(nn.Linear):
...     def _save_to_state_dict(self, destination, prefix, keep_vars):
...         super()._save_to_state_dict(destination, prefix, keep_vars)
...         destination[prefix + "weight"] = destination[prefix + "weight"] * 2
>>> stored_otherwise(nn.Sequential(Doubled(2, 2), nn.Linear(2, 2)))
['0.weight']
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.errors import LoadError, shorten
from fxmap.expressions.base import Expression
from fxmap.files.lazy import materialise
from fxmap.mapping.arrived import has_numbers
from fxmap.mapping.lazy_state import is_plain_tensor
from fxmap.mapping.proof import Proof, Status
from fxmap.mapping.writing import snapshot
from fxmap.model.replica import held_by_path, is_on_meta, replicate
from fxmap.model.restoring import let_through
from fxmap.model.tensors import is_whole


def stored_otherwise(model: nn.Module) -> list[str]:
    """Return the keys of parameters and buffers for which a model's state dict has other numbers than they hold.

    A copy in the same form (another dtype, another place in memory) is none of them. Cost: a state dict; where it holds
    other tensor objects than the model, a copy of the model, whose numbers are changed.
    """
    own, stored = held_by_path(model), _stored(model)
    suspects = [key for key, value in stored.items() if key in own and not _is_itself(value, own[key])]
    if not suspects:
        return []
    copy = replicate(model, own=True)
    held = held_by_path(copy)
    with torch.no_grad():
        for key in suspects:
            _change(held[key])
    stored = copy.state_dict()
    return [key for key in suspects if held[key].is_meta or not _has(stored.get(key), held[key])]


def state_read(model: nn.Module) -> Mapping[str, Any]:
    """Return a model's state dict with the tensors that its code reads, where it stores them in another form."""
    state, own, keys = model.state_dict(), held_by_path(model), stored_otherwise(model)
    return {**state, **{key: own[key].detach() for key in keys}} if keys else state


def file_read(model: nn.Module, state: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Return the state dict of a file with the tensors that a model's code reads after it has loaded the file.

    The model is not changed. Where it stores what it reads, the state dict is returned itself, and nothing of it is read.

    Raises:
        LoadError: the model does not load the file, or does not store again what the file holds.
    """
    keys = [key for key in stored_otherwise(model) if key in state]
    if not keys:
        return state
    what = f"{shorten(keys)}: src ({type(model).__name__}) stores another form of it than its code reads"
    copy = replicate(model, own=True)
    if is_on_meta(copy):
        copy = copy.to_empty(device="cpu")
    given = OrderedDict((key, snapshot(materialise(value))) for key, value in state.items())
    given._metadata = getattr(state, "_metadata", getattr(model.state_dict(), "_metadata", None))  # type: ignore[attr-defined]
    try:
        copy.load_state_dict(given, strict=False)
    except Exception as error:  # whatever code of a model raises
        let_through(error)
        raise LoadError(f"{what}, and does not load {where}: {error}. Nothing was written") from error
    again, held = copy.state_dict(), held_by_path(copy)
    lost = [key for key in keys if not _has(again.get(key), materialise(state[key]))]
    if lost:
        raise LoadError(
            f"{what}, and once it has loaded {where}, it stores something else: {shorten(lost)}. What its code would "
            "read is not known. Nothing was written. Load the file into src, and use fxmap.transfer(src, dst)"
        )
    return {**state, **{key: held[key].detach() for key in keys}}


def of_what_is_read(proof: Proof, mapping: Mapping[str, Expression], src: nn.Module) -> Proof:
    """Return a proof that is not ok where the source's state dict has another form of what the mapping reads."""
    read = {key for part in mapping.values() for key in part.sources()}
    keys = [key for key in stored_otherwise(src) if key in read] if read else []
    if not keys:
        return proof
    about = {key for key, part in mapping.items() if not set(keys).isdisjoint(part.sources())}
    statuses = {
        key: Status.MATCHED if key in about and status.is_proven else status for key, status in proof.statuses.items()
    }
    reason = (
        f"{shorten(keys)}: src.state_dict() stores another form of it than its code reads (a hook or an overridden method), "
        "and the mapping is of what it reads, which mapping.apply does not find in a state dict. fxmap.transfer, and "
        "fxmap.load with src=, take what the code reads"
    )
    if not proof.asked:
        return replace(proof, statuses=statuses, notes=(*proof.notes, reason))
    return replace(proof, ok=False, statuses=statuses, reason=f"{reason}; {proof.reason}" if proof.reason else reason)


def _stored(model: nn.Module) -> Mapping[str, Any]:
    try:
        stored: Mapping[str, Any] = model.state_dict(keep_vars=True)
    except TypeError:  # overridden, without this argument
        stored = model.state_dict()
    return stored


def _is_itself(value: Any, own: Tensor) -> bool:
    """Whether a value of a state dict is a tensor of the model; other kinds of tensors are the business of forms."""
    if value is own or not isinstance(value, Tensor):
        return True
    if value.is_meta or own.is_meta:
        return False
    if not is_plain_tensor(value) or not is_plain_tensor(own):
        return True
    return (value.data_ptr(), value.dtype, value.shape, value.stride()) == (
        own.data_ptr(),
        own.dtype,
        own.shape,
        own.stride(),
    )


def _change(tensor: Tensor) -> None:
    """Write other numbers into a tensor."""
    if tensor.is_meta:
        return
    if is_whole(tensor):
        turned = tensor.flip(0) if tensor.dim() else tensor
        tensor.copy_(turned.logical_not() if tensor.dtype is torch.bool else turned + 1)
    else:
        generator = torch.Generator().manual_seed(0)
        tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype))


def _has(value: Any, wanted: Tensor) -> bool:
    """Whether a value has some numbers, in the coarser of both dtypes."""
    if not isinstance(value, Tensor) or value.shape != wanted.shape:
        return False
    coarser = value if value.element_size() < wanted.element_size() else wanted
    return has_numbers(value.detach().to(coarser.dtype), wanted.detach().to(coarser.dtype))
