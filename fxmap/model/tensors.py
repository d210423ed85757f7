"""Tensors in nested values: the arguments and the outputs of models.

Cost: linear in the number of nested values.
"""

from collections.abc import Mapping
from typing import Any

import torch
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


def outputs_of(value: Any) -> list[Tensor]:
    """Return all tensors in the output of a model as numbers that can be compared: dense, of a dtype that torch computes in.

    Those on the meta device have no numbers, and are left out.

    >>> import torch
    >>> [t.tolist() for t in outputs_of((torch.eye(2).to_sparse(), torch.ones(1).to(torch.float8_e4m3fn)))]
    [[[1.0, 0.0], [0.0, 1.0]], [1.0]]
    """
    return [plain(tensor) for tensor in tensors_of(value) if not tensor.is_meta]


def plain(tensor: Tensor) -> Tensor:
    """Return a tensor itself, or, where torch cannot compare those of its kind, one of the same numbers: dense, and wide.

    >>> import torch
    >>> plain(torch.ones(2, dtype=torch.uint16)).dtype, plain(torch.ones(2)).dtype
    (torch.int64, torch.float32)
    """
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    return tensor.to(_WIDE[tensor.dtype]) if tensor.dtype in _WIDE else tensor


# Dtypes in which values are stored, and next to nothing is computed.
_WIDE = {
    **dict.fromkeys((torch.uint16, torch.uint32, torch.uint64), torch.int64),
    **{
        dtype: torch.float32
        for name, dtype in vars(torch).items()
        if name.startswith("float8_") or name.startswith("float4_")
    },
}
