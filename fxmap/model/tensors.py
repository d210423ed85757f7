"""Tensors in nested values: the arguments and the outputs of models.

Cost: linear in the number of nested values.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def tensors_of(value: Any) -> list[Tensor]:
    """Return all tensors in nested tuples, lists and mappings (the outputs of transformers are mappings), in their order.

    >>> import torch
    >>> [t.item() for t in tensors_of({"b": torch.tensor(1), "a": [torch.tensor(2)]})]
    [1, 2]
    """
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for part in value.values() for tensor in tensors_of(part)]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in tensors_of(part)]
    return []
