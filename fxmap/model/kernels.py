"""Float64 replacements for operations whose torch kernel is slow or absent in that dtype, written in other operations.

Cost: those of the operations that they are written as; a grouped convolution by patches needs memory for the patches.
"""

from functools import partial
from types import MethodWrapperType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from fxmap.model.few_rows import can_add_rows, can_join_positions, joined_positions, linear, map_of
from fxmap.model.recall import PRODUCTS, active
from fxmap.model.tensors import tensors_of


class DoubleKernels(TorchFunctionMode):
    """Replaces grouped convolutions and grouped matrix products inside its `with` block, by the same sums written otherwise.

    Convolutions with few channels per group become one product over patches: torch loops over the groups, 11 s for a
    depthwise layer of 576 channels, this takes 3 ms. Products by group of rows (experts) torch refuses in float64. Where
    code casts to float32 by itself, as in `one_hot(i).float() @ w`, and torch then refuses operands of two precisions, they
    are computed in float64; so is a tensor that code fills with a number which float32 does not hold, as the least float64.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look for a product that is known, else compute what the function does."""
        if type(func) is MethodWrapperType:
            return func(*args)  # an attribute of a tensor, such as its shape
        kwargs, recall = kwargs or {}, active()
        if recall is None:
            return self._computed(func, *args, **kwargs)
        if func in PRODUCTS:
            return recall.product(func, args, kwargs, partial(self._computed, func))
        recall.watch(getattr(func, "__name__", ""), args, kwargs)
        return self._computed(func, *args, **kwargs)

    def _computed(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Intercept convolutions that torch computes slowly, products of few rows, and products by group."""
        name = getattr(func, "__name__", "")
        if func is torch.conv2d:
            call = dict(zip(_CONV2D, args, strict=False)) | kwargs
            if _is_depthwise(**call):
                return _grouped_convolution(**call)
            if can_join_positions(**call):
                return joined_positions(**call)
        elif func is F.linear and can_add_rows(*args, **kwargs):
            return linear(*args, **kwargs)
        elif name in ("grouped_mm", "_grouped_mm"):
            call = dict(zip(_GROUPED_MM, args, strict=False)) | kwargs
            if call["input"].dtype is torch.float64 and can_part(**call):
                return grouped_mm(call["input"], call["weight"], call["offs"])
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if _FAR in str(error) and name in _MAKING and kwargs.get("dtype") is None:
                return func(*args, **{**kwargs, "dtype": torch.float64})
            if not _has_two_precisions(args, kwargs) or name.endswith("_"):
                raise
            args, kwargs = tree_map(_widened, (args, kwargs))
            return func(*args, **kwargs)


def _widened(value: Any) -> Any:
    """Return a real floating-point tensor in double precision; other values are returned unchanged."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _has_two_precisions(args: Any, kwargs: Any) -> bool:
    """Whether one operand is float64 and another is not, as behind `x.float()` in a model that runs in float64."""
    found = {tensor.dtype for tensor in tensors_of([args, kwargs]) if tensor.is_floating_point()}
    return len(found) > 1 and torch.float64 in found


# What torch says of a number that the default dtype does not hold, and the functions that make tensors of numbers.
_FAR, _MAKING = "without overflow", ("full", "full_like", "scalar_tensor")
_GROUPED_MM = ("input", "weight", "offs", "bias", "out_dtype")


_CONV2D = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def _is_depthwise(input: Tensor, weight: Tensor, groups: int = 1, padding: Any = 0, **_: Any) -> bool:
    few = groups > 1 and weight.shape[1] <= 4
    slow = weight.dtype is torch.float64 and not input.is_meta
    return few and slow and input.dim() == 4 and not isinstance(padding, str)


def _grouped_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    patches = F.unfold(input, tuple(weight.shape[2:]), dilation, padding, stride)
    batch, _, positions = patches.shape
    value = weight.reshape(1, groups, weight.shape[0] // groups, -1) @ patches.reshape(batch, groups, -1, positions)
    value = value.reshape(batch, weight.shape[0], *map_of(input, weight, stride, padding, dilation))
    return value if bias is None else value + bias[:, None, None]


def can_part(
    input: Tensor, weight: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: Any = None
) -> bool:
    """Whether a call of torch's grouped_mm has the form that ours computes: 2-D rows by group, and one matrix for each."""
    return input.dim() == 2 and weight.dim() == 3 and offs is not None and bias is None and out_dtype is None


def grouped_mm(input: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    """Multiply every group of rows by a matrix of its own: `(g1 + g2 + ...) i, g i o -> (g1 + g2 + ...) o`.

    `offs` are the ends of the groups, in order. Written as a sum over the groups, in which the rows of others are zero: the
    product of each group stands alone, as where every expert is a module of its own.

    >>> grouped_mm(torch.ones(3, 1), torch.tensor([[[2.0]], [[5.0]]]), torch.tensor([1, 3]))
    tensor([[2.],
            [5.],
            [5.]])
    """
    rows = torch.arange(input.shape[0], device=input.device)
    begin = torch.cat((offs.new_zeros(1), offs[:-1]))
    total: Tensor | None = None
    for group in range(weight.shape[0]):
        inside = (rows >= begin[group]) & (rows < offs[group])
        product = torch.mm(input * inside.to(input.dtype).unsqueeze(1), weight[group])
        total = product if total is None else total + product
    return input.new_zeros(input.shape[0], weight.shape[2]) if total is None else total
