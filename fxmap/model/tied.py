"""Tied keys: names in a state dict that share one tensor."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

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
