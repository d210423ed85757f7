"""Tied keys: names in a state dict that share one tensor."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fxmap.model.tensors import has_place


def tied(state: Mapping[str, Any]) -> list[list[str]]:
    """Return groups of keys that share one tensor; tensors without memory are not compared.

    >>> import torch
    >>> table = torch.ones(3, 2)
    >>> tied({"embedding.weight": table, "head.weight": table, "fc.weight": torch.ones(3, 2)})
    [['embedding.weight', 'head.weight']]
    """
    groups: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for key, value in state.items():
        if isinstance(value, Tensor) and has_place(value):
            groups[value.data_ptr(), value.shape, value.stride()].append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


def tied_in(model: nn.Module) -> list[list[str]]:
    """Return groups of keys that are one parameter or one buffer of a model, which may be on the meta device.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False, device="meta"), nn.Linear(2, 2, bias=False, device="meta"))
    >>> model[1].weight = model[0].weight
    >>> tied_in(model)
    [['0.weight', '1.weight']]
    """
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    groups: dict[int, list[str]] = defaultdict(list)
    for key, tensor in named:
        groups[id(tensor)].append(key)
    return [keys for keys in groups.values() if len(keys) > 1]
