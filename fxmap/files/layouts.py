"""Layouts: sparse tensors of a state dict, such as pruned weights, which are made dense when they are read.

>>> state = {"fc.weight": torch.eye(3).to_sparse(), "fc.bias": torch.ones(3)}
>>> made = dense(state)
>>> made["fc.weight"], made["fc.weight"].sum().item(), made["fc.bias"] is state["fc.bias"]
(LazyTensor([3, 3], torch.float32), 3.0, True)

Cost: a look at each key; a tensor that is sparse, whenever a part of it is read.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import CheckpointError
from fxmap.expressions.regions import Region, cut
from fxmap.files.lazy import LazyTensor
from fxmap.files.limits import current


def dense(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a state dict whose sparse tensors are made dense when they are read; itself where there are none.

    Nested tensors, which have no one shape, stay as they are.
    """
    sparse = {key: _lazily(key, value) for key, value in state.items() if _is_sparse(value)}
    if not sparse:
        return state
    made = OrderedDict((key, sparse.get(key, value)) for key, value in state.items())
    if hasattr(state, "_metadata"):
        made._metadata = state._metadata  # type: ignore[attr-defined]
    return made


def _is_sparse(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_nested and value.layout is not torch.strided


def _lazily(key: str, value: Tensor) -> LazyTensor:
    def make(region: Region) -> Tensor:
        size, held = value.numel() * value.element_size(), _held(value)
        if size > current().allowed(held):
            raise CheckpointError(
                f"{key}: a sparse tensor of {held:,} bytes that would become {size:,} in memory. Make it dense yourself, "
                "value.to_dense(), or allow it: fxmap.file_limits(expansion=...)"
            )
        whole: Tensor = value.detach().to_dense()
        return cut(whole, region)

    return LazyTensor(value.shape, value.dtype, make)


def _held(value: Tensor) -> int:
    """Return about how many bytes a tensor of another layout takes."""
    entries = value._nnz() if value.layout is not torch._mkldnn else value.numel()  # type: ignore[attr-defined]
    return int(entries) * (value.element_size() + 8 * value.dim())
