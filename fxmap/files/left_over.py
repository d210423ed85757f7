"""Left over: the role of the keys of a file that nothing reads, as far as names, places and values tell.

Grave are tensors of a layer, or of a numbered block, of which others are read: a bias, a scale, an adapter. What would be
loaded without them is not the file's network. Inert are counters, masks, tables and second copies. The rest are parts of
their own, such as another head.

Cost: linear in the number of keys, times their depth; values are looked at where names leave it open.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxmap.model.tensors import equal

_MASK, _FILL, _FREQUENCIES = "a causal mask", "what a mask is filled with", "frequencies, as those of rotary embeddings"

# What a model makes itself, whatever weights it has.
CONSTANTS = (_MASK, _FILL, _FREQUENCIES)


@dataclass(frozen=True, slots=True)
class LeftOver:
    """An unread key of the file with its role, and whether its loss is grave, or it is inert."""

    key: str
    what: str
    grave: bool = False
    inert: bool = False


def left_over(state: Mapping[str, Any], used: Collection[str], skipped: Collection[str] = ()) -> Iterator[LeftOver]:
    """Yield the role of every unused tensor of a state dict, except the `skipped` keys, which are judged elsewhere.

    >>> state = {"fc.weight": torch.ones(3, 2), "fc.bias": torch.ones(3), "aux.weight": torch.ones(2, 2)}
    >>> [(found.key, found.what, found.grave) for found in left_over(state, ["fc.weight"])]
    [('fc.bias', 'a tensor of fc, of which fc.weight is read', True), ('aux.weight', 'a part of its own', False)]
    """
    beside: dict[str, str] = {}
    inside: dict[str, str] = {}
    for key in used:
        parts = key.split(".")
        beside.setdefault(".".join(parts[:-1]), key)
        for depth in range(1, len(parts)):
            inside.setdefault(".".join(parts[:depth]), key)
    sizes: dict[tuple[int, ...], list[str]] = {}
    for key in used:
        if isinstance(state.get(key), Tensor):
            sizes.setdefault(tuple(state[key].shape), []).append(key)
    for key, value in state.items():
        if key in used or key in skipped or not isinstance(value, Tensor):
            continue
        harmless = inert(key, value) or _copied(value, state, sizes.get(tuple(value.shape), []))
        if harmless:
            yield LeftOver(key, harmless, inert=True)
        elif "lora_" in key:
            yield LeftOver(key, "a low-rank adapter (LoRA), which belongs into the weight that it stands beside", grave=True)
        else:
            yield _by_place(key, beside, inside)


def _by_place(key: str, beside: Mapping[str, str], inside: Mapping[str, str]) -> LeftOver:
    parts = key.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        owner = ".".join(parts[:depth])
        if owner in beside and (owner or depth == len(parts) - 1):
            where = owner or "the model itself"
            return LeftOver(key, f"a tensor of {where}, of which {beside[owner]} is read", grave=True)
        if owner in inside and any(part.isdigit() for part in parts[:depth]):
            return LeftOver(key, f"a part of {owner}, of which {inside[owner]} is read", grave=True)
    return LeftOver(key, "a part of its own")


def _copied(value: Tensor, state: Mapping[str, Any], others: Collection[str]) -> str:
    if value.is_meta or value.numel() < 2 or value.is_quantized:
        return ""
    same = next((key for key in others if equal(state[key], value)), "")
    return f"the same numbers as {same}" if same else ""


def inert(key: str, value: Tensor) -> str:
    """Say why a tensor changes no output, as far as it shows; empty where it may."""
    if value.is_meta or value.is_quantized or not value.numel():
        return ""
    if _is_permutation(value):
        return ""
    if value.dtype in (torch.int64, torch.bool) or (key.endswith("num_batches_tracked")):
        return "a counter, a mask or a table of integers"
    if value.is_complex() or value.element_size() == 1:
        return ""
    if key.rpartition(".")[2] == "bias" and not value.any():
        return "a bias of 0"
    if value.numel() == 1 and value.item() <= -1e3:
        return _FILL
    if value.dim() >= 2 and value.shape[-1] == value.shape[-2] > 1 and _is_causal(value):
        return _MASK
    return _FREQUENCIES if _is_geometric(value) else ""


def _is_permutation(value: Tensor) -> bool:
    """Whether the numbers are those from 0 on, each once, in another order: code that reads them moves what it is given."""
    if value.dtype is not torch.int64 or value.dim() != 1:
        return False
    counted = torch.arange(len(value), device=value.device)
    return torch.equal(value.sort()[0], counted) and not torch.equal(value, counted)


def _is_causal(value: Tensor) -> bool:
    """Whether a tensor is 1 up to the diagonal and 0 behind it, or 0 up to it and very negative behind it."""
    if torch.equal(value, torch.ones_like(value).tril()):
        return True
    behind = torch.ones_like(value, dtype=torch.bool).triu(1)
    return not bool(value[~behind].any()) and bool((value[behind] <= -1e3).all())


def _is_geometric(value: Tensor) -> bool:
    """Whether the numbers are 1 and its powers of one factor below 1, as those of rotary embeddings."""
    if value.dim() != 1 or len(value) < 3 or not value.is_floating_point() or not bool((value > 0).all()):
        return False
    steps = value.double().log().diff()
    return bool(value[0] == 1) and bool(steps[0] < 0) and torch.allclose(steps, steps[0].expand_as(steps), rtol=1e-2)
