"""Masks that a model makes itself, and keeps in its state dict: a causal mask, a window.

Such a buffer says nothing of the weights: it follows from the length alone. Where the other model has none like it, that one
computes the same in another way (`is_causal`, a mask made in forward), so the buffer is a constant of its model. Where both
state dicts have one of the shape, it is a tensor like any other.

Cost: one comparison of each buffer of two axes or more.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from fxmap.forms.form import Twin
from fxmap.forms.sites import KeptReason


def own_masks(model: nn.Module, other: nn.Module) -> frozenset[str]:
    """Return the paths of the masks in a model's state dict whose shapes no buffer in that of the other model has.

    >>> attention, plain = nn.Linear(4, 4), nn.Linear(4, 4)
    >>> attention.register_buffer("mask", torch.ones(3, 3).tril().view(1, 1, 3, 3))
    >>> own_masks(attention, plain), own_masks(attention, attention)
    (frozenset({'mask'}), frozenset())
    """
    taken = {tuple(buffer.shape) for buffer in _stored(other).values()}
    return frozenset(path for path, buffer in _stored(model).items() if tuple(buffer.shape) not in taken and is_mask(buffer))


def _stored(model: nn.Module) -> dict[str, Tensor]:
    buffers = dict(model.named_buffers(remove_duplicate=False))
    return {path: buffers[path] for path in model.state_dict(keep_vars=True) if path in buffers}


def is_mask(value: Tensor) -> bool:
    """Whether a tensor keeps some pairs of positions and drops the others, by their distance alone.

    >>> causal = torch.ones(4, 4).tril()
    >>> is_mask(causal), is_mask(torch.full((4, 4), -torch.inf).triu(1)), is_mask(torch.eye(4)[[1, 0, 3, 2]])
    (True, True, False)
    """
    if (
        value.is_meta
        or value.dim() < 2
        or min(value.shape[-2:]) < 2
        or value.is_complex()
        or value.layout is not torch.strided
    ):
        return False
    plane = value.detach().reshape(-1, *value.shape[-2:])
    if bool((plane != plane[:1]).any()) or bool((plane[0, 1:, 1:] != plane[0, :-1, :-1]).any()):
        return False
    kept = {float(number) for number in torch.unique(plane[0].float())}
    dropped = kept - {0.0}
    return len(kept) == 2 and len(dropped) == 1 and (dropped == {1.0} or max(dropped) <= _FAR)


# What is added to the scores of positions that are dropped is at most this.
_FAR = -1e4


def as_constants(twin: Twin, paths: frozenset[str]) -> Twin:
    """Return a twin that has some buffers as constants, as if they were not in its state dict."""
    if not paths:
        return twin
    for path in paths:
        owner, _, name = path.rpartition(".")
        module = twin.module.get_submodule(owner)
        module._non_persistent_buffers_set = {*module._non_persistent_buffers_set, name}
    stores = {key: store for key, store in twin.stores.items() if key not in paths}
    return replace(twin, stores=stores, kept={**twin.kept, **dict.fromkeys(paths, KeptReason.OWN_MASK)})
