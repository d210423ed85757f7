"""Products of few rows with a large matrix, in float64: the same sums, in the form in which the matrix is read fastest.

On small inputs a model spends its time reading weights. BLAS reads a matrix in blocks of four or eight rows of the other
operand: 10 rows take twice as long as 12. And torch's convolution in float64 multiplies sample by sample, so that it reads
the weight once for each; over all positions of all samples together it is one product, with the rows of a linear layer.

>>> x, w = torch.randn(2, 5, 64, dtype=torch.float64), torch.randn(1024, 64, dtype=torch.float64)
>>> torch.allclose(linear(x, w), F.linear(x, w)), linear(x, w).shape
(True, torch.Size([2, 5, 1024]))

Cost: that of the product, and of a copy of the few rows.
Source: packing of panels in matrix products, Goto and van de Geijn, Anatomy of high-performance matrix multiplication, 2008,
doi:10.1145/1356052.1356053.
"""

import math
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Rows that a kernel takes at once.
_BLOCK = 4
# With more rows than this, a product is limited by arithmetic, and not by reading the matrix.
_MANY_ROWS, _MANY_POSITIONS = 256, 64
# Matrices of fewer numbers are read from the cache.
_LARGE = 1 << 15


def can_add_rows(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether a linear layer has a few rows, which are no whole block, and a weight that is large beside them."""
    if not (is_plain(input) and is_plain(weight) and weight.dim() == 2 and _is_large(weight)):
        return False
    rows = math.prod(input.shape[:-1])
    return rows % _BLOCK > 0 and 1 < rows <= _MANY_ROWS and input.shape[-1] == weight.shape[1]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute a linear layer, `... i, o i -> ... o`, with rows of zeros up to a whole block."""
    rows = math.prod(input.shape[:-1])
    flat = F.pad(input.reshape(rows, -1), (0, 0, 0, -rows % _BLOCK))
    return F.linear(flat, weight, bias)[:rows].view(*input.shape[:-1], -1)


def can_join_positions(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """Whether a convolution has few positions in all samples, and a weight that is large beside them."""
    if groups != 1 or isinstance(padding, str) or not (is_plain(input) and is_plain(weight) and _is_large(weight)):
        return False
    if input.dim() != 4 or weight.dim() != 4 or input.shape[1] != weight.shape[1] or not input.is_contiguous():
        return False
    # One or two positions are products with a vector.
    return 2 < len(input) * math.prod(map_of(input, weight, stride, padding, dilation)) <= _MANY_POSITIONS


def joined_positions(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Compute a convolution as a linear layer on the patches of all positions."""
    height, width = map_of(input, weight, stride, padding, dilation)
    patches = F.unfold(input, tuple(weight.shape[2:]), dilation, padding, stride)
    value = linear(patches.transpose(1, 2), weight.reshape(len(weight), -1), bias)
    return value.transpose(1, 2).contiguous().view(len(input), -1, height, width)


def map_of(input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> tuple[int, int]:
    """Return the height and the width of what a convolution makes."""
    stride, padding, dilation = (
        tuple(v) * 2 if isinstance(v, tuple | list) else (v, v) for v in (stride, padding, dilation)
    )
    height, width = (
        (extent + 2 * padding[axis] - dilation[axis] * (weight.shape[2 + axis] - 1) - 1) // stride[axis] + 1
        for axis, extent in enumerate(input.shape[2:])
    )
    return height, width


def is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a tensor of torch's own class, in float64 and in memory, and not one of `vmap` or `torch.func`."""
    if type(value) is not Tensor and type(value) is not nn.Parameter:
        return False
    in_memory = value.dtype is torch.float64 and not value.is_meta and value.layout is torch.strided
    return in_memory and not torch._C._functorch.is_functorch_wrapped_tensor(value)


def _is_large(weight: Tensor) -> bool:
    return weight.numel() >= _LARGE
