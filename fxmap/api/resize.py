"""Resize: give a source model the tensor shapes of its file, such as those of a head with another number of classes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.model.replica import named_tensors, replicate
from fxmap.model.wrappers import unwrap


def resized(src: nn.Module, state: Mapping[str, Any]) -> tuple[nn.Module, list[str]]:
    """Return a copy of a model with the tensor shapes of a state dict, and the keys whose shapes were changed.

    The user's model is not changed; where no shape differs, it is returned itself. Linear in the number of tensors.

    >>> model, keys = resized(nn.Linear(3, 10), {"weight": torch.ones(7, 3), "bias": torch.ones(7)})
    >>> tuple(model.weight.shape), keys
    ((7, 3), ['weight', 'bias'])
    """
    inner, prefix = unwrap(src)
    changed = [path for path, owner, name in named_tensors(inner) if _other(getattr(owner, name), state.get(prefix + path))]
    if not changed:
        return src, []
    model, made = replicate(src), dict[int, Tensor]()
    for path, owner, name in list(named_tensors(unwrap(model)[0])):
        own = getattr(owner, name)
        if path not in changed or id(own) in {id(tensor) for tensor in made.values()}:
            continue
        if id(own) not in made:
            fresh = torch.zeros(state[prefix + path].shape, dtype=own.dtype, device=own.device)
            fresh = fresh.normal_() if fresh.is_floating_point() else fresh
            made[id(own)] = nn.Parameter(fresh, requires_grad=False) if isinstance(own, nn.Parameter) else fresh
        holder = owner._parameters if name in owner._parameters else owner._buffers
        holder[name] = made[id(own)]  # type: ignore[assignment]
        if isinstance(owner, nn.Linear):
            owner.out_features, owner.in_features = owner.weight.shape
        elif isinstance(owner, nn.Embedding):
            owner.num_embeddings, owner.embedding_dim = owner.weight.shape
    return model, [prefix + path for path in changed]


def _other(own: Tensor, value: Any) -> bool:
    """Whether a value of the file has other lengths along the same axes as the model's tensor."""
    plain = isinstance(value, Tensor) and not own.is_quantized and not value.is_quantized
    return plain and own.dim() == value.dim() and own.shape != value.shape
