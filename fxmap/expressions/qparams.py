"""Checks of what quantizes a tensor: scales, zero points, axis and dtype, before torch's kernels see them.

The kernels check part of it, and end the process where they meet what they do not expect (zero points in floating point with
32-bit integers), or read past the end of a buffer. What a file or a mapping says is therefore checked here first. Like
`functions`, this module needs torch alone: `KeyMapping.to_python` prints its functions.

>>> check_qparams((2, 3), torch.qint8, torch.ones(2), torch.zeros(2, dtype=torch.int64), 0)
>>> check_qparams((2, 3), torch.qint8, torch.tensor([1.0, 0.0]), torch.zeros(2, dtype=torch.int64), 0)
Traceback (most recent call last):
...
ValueError: scale 1 is 0.0: scales are finite and above 0
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# The integers of every quantized dtype of torch, by its name.
RANGES = {
    "qint8": (-128, 127),
    "quint8": (0, 255),
    "qint32": (-(2**31), 2**31 - 1),
    "quint4x2": (0, 15),
    "quint2x4": (0, 3),
}


def check_qparams(shape: Sequence[int], dtype: torch.dtype, scales: Tensor, zero_points: Tensor, axis: int | None) -> None:
    """Check the parameters of a quantized tensor of a shape; `axis` is None where there is one scale for all.

    Raises:
        ValueError: something of it does not fit; the message says what. Values of meta tensors are not looked at.

    Cost: linear in the number of scales.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in RANGES:
        raise ValueError(f"{name} is no quantized dtype; there are {', '.join(RANGES)}")
    if axis is not None and not 0 <= axis < len(shape):
        raise ValueError(f"axis {axis} of a tensor of shape {list(shape)}")
    channels = 1 if axis is None else shape[axis]
    for what, value in (("scales", scales), ("zero points", zero_points)):
        if value.numel() != channels or (axis is not None and value.dim() != 1):
            raise ValueError(f"{what} of shape {list(value.shape)} for {channels} channels of {list(shape)}")
    if not scales.is_floating_point():
        raise ValueError(f"scales of {scales.dtype}")
    if zero_points.is_floating_point() and (axis is None or name == "qint32"):
        raise ValueError(f"zero points of {zero_points.dtype} for a tensor of {name}, {_granularity(axis)}")
    if zero_points.is_complex() or zero_points.dtype is torch.bool:
        raise ValueError(f"zero points of {zero_points.dtype}")
    if scales.is_meta or zero_points.is_meta:
        return
    bad = _first(~(torch.isfinite(scales) & (scales > 0)))
    if bad is not None:
        raise ValueError(f"scale {bad} is {scales.flatten()[bad].item()}: scales are finite and above 0")
    low, high = RANGES[name]
    floating = zero_points.is_floating_point()
    bad = _first(~torch.isfinite(zero_points) if floating else (zero_points < low) | (zero_points > high))
    if bad is not None:
        allowed = "they are finite" if floating else f"{name} holds {low} to {high}"
        raise ValueError(f"zero point {bad} is {zero_points.flatten()[bad].item()}: {allowed}")


def check_quantized(value: Tensor) -> None:
    """Check the parameters of a quantized tensor that was made elsewhere, such as one of a file.

    Raises:
        ValueError: as `check_qparams`.
    """
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        scale, zero_point = torch.tensor(value.q_scale(), dtype=torch.float64), torch.tensor(value.q_zero_point())
        check_qparams(value.shape, value.dtype, scale, zero_point, None)
        return
    scales, zero_points = value.q_per_channel_scales(), value.q_per_channel_zero_points()
    check_qparams(value.shape, value.dtype, scales, zero_points, value.q_per_channel_axis())


def check_packable(weight: Any, bias: Any) -> None:
    """Check weight, `o i`, and bias, `o`, of a quantized linear layer before torch packs them.

    Raises:
        ValueError: the weight is not of qint8 with integer zero points along axis 0, or the bias does not fit.
    """
    if not isinstance(weight, Tensor) or not weight.is_quantized or weight.dtype is not torch.qint8 or weight.dim() != 2:
        raise ValueError(f"a layer packs a matrix of qint8, not {_described(weight)}")
    check_quantized(weight)
    if weight.qscheme() is torch.per_channel_affine_float_qparams:
        raise ValueError("a layer packs integer zero points, not those in floating point")
    if weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric) and weight.q_per_channel_axis() != 0:
        raise ValueError(f"a layer packs scales along axis 0, not {weight.q_per_channel_axis()}")
    if bias is not None and (
        not isinstance(bias, Tensor) or bias.dtype is not torch.float32 or tuple(bias.shape) != (len(weight),)
    ):
        raise ValueError(f"a layer of {len(weight)} rows packs as many biases of float32, not {_described(bias)}")


def _granularity(axis: int | None) -> str:
    return "one for all" if axis is None else f"along axis {axis}"


def _described(value: Any) -> str:
    return f"{list(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _first(flags: Tensor) -> int | None:
    """Return the index of the first flag that is set, or None."""
    found = flags.flatten().nonzero()
    return int(found[0]) if len(found) else None
