"""Contradictions: different values for keys of one memory, such as tied weights, of which only the last would be left."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.errors import LoadError, shorten
from fxmap.files.lazy import materialise
from fxmap.mapping.arrived import has_numbers
from fxmap.mapping.lazy_state import is_plain_tensor, storage_of
from fxmap.model.tied import tied_in


def refuse_contradictions(dst: nn.Module, made: Collection[str], full: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse different values for keys that are one tensor in the destination, or that overlap in its memory.

    Args:
        dst: the model.
        made: the keys with new values, whose shapes are those of the model.
        full: the values, of which only those of such keys are read.
        own: the model's state dict.

    Raises:
        LoadError: there are such keys; nothing was written.

    Memory: the tensors of one such group.
    """
    for keys in tied_in(dst):
        held = [key for key in keys if key in made and isinstance(full[key], Tensor)]
        if len(held) > 1 and own[held[0]].is_meta:
            first, *others = held
            value = materialise(full[first])
            for key in others:
                if not has_numbers(value, materialise(full[key])):
                    raise _contradiction(first, [key])
    for keys in _overlapping({key: own[key] for key in made if storage_of(own[key]) is not None}):
        _refuse_overlap(keys, full, own)


def _overlapping(own: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Yield groups of keys whose tensors may overlap: those of one storage, dtype, and connected ranges."""
    places: dict[Any, list[tuple[int, int, str]]] = defaultdict(list)
    for key, value in own.items():
        if value.numel() and not any(
            step == 0 and count > 1 for step, count in zip(value.stride(), value.shape, strict=True)
        ):
            places[storage_of(value), value.dtype].append((*_span(value), key))
    for spans in places.values():
        group, end = list[str](), -1
        for first, last, key in sorted(spans):
            if first > end and len(group) > 1:
                yield [one for one in own if one in group]
            group, end = ([key], last) if first > end else ([*group, key], max(end, last))
        if len(group) > 1:
            yield [one for one in own if one in group]


def _span(value: Tensor) -> tuple[int, int]:
    """Return the first and the last element of a storage that a tensor has."""
    first = int(value.storage_offset())
    return first, first + sum((int(count) - 1) * int(step) for count, step in zip(value.shape, value.stride(), strict=True))


def _refuse_overlap(keys: list[str], full: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    """Write the values of a group into memory of the same layout, and look whether all of them are there."""
    if not all(isinstance(full[key], Tensor) and not full[key].is_meta for key in keys):
        return
    values = {key: materialise(full[key]) for key in keys}
    if not all(map(is_plain_tensor, values.values())):
        return
    start, end = min(_span(own[key])[0] for key in keys), max(_span(own[key])[1] for key in keys)
    memory = torch.zeros(end - start + 1, dtype=own[keys[0]].dtype)
    with torch.no_grad():
        views = {
            key: memory.as_strided(own[key].shape, own[key].stride(), own[key].storage_offset() - start) for key in keys
        }
        for key in keys:
            views[key].copy_(values[key])
    for key in keys:
        if not has_numbers(views[key], values[key]):
            raise _contradiction(key, [other for other in keys if other != key])


def _contradiction(key: str, others: list[str]) -> LoadError:
    return LoadError(
        f"{key} and {shorten(others)} share one memory in the destination, and the mapping makes different values for them, "
        "of which only the last would be left. Nothing was written. Build the destination without tying these weights, or "
        "map one of these keys alone"
    )
