"""The functions of tensors that expressions call; they need torch alone, so that `to_python` can print them.

Expressions call these functions, and `KeyMapping.to_python` prints them, so this module imports nothing of fxmap but
`packing` and `qparams`, which need torch alone as well; see `call`. A scheme of quantization is a plain dict here,
`Scheme.to_json`.

>>> full((2,), 0.5, torch.zeros(3, dtype=torch.float16))
tensor([0.5000, 0.5000], dtype=torch.float16)
>>> scheme = {"dtype": "qint8", "qscheme": "per_tensor_symmetric", "axis": 0, "quant_min": -128, "quant_max": 127}
>>> quantize(torch.tensor([1.0, -0.5]), scheme | {"eps": 1e-7}).int_repr()
tensor([127, -64], dtype=torch.int8)
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from fxmap.expressions.packing import clone
from fxmap.expressions.qparams import check_qparams


def dtype_like(value: Tensor) -> torch.dtype:
    """Return the dtype for constants that are combined with a tensor: its own, or float32 where it holds integers."""
    return value.dtype if value.is_floating_point() or value.is_complex() else torch.float32


def full(shape: tuple[int, ...], value: float, like: Tensor) -> Tensor:
    """Return a constant tensor of the dtype and device of another one."""
    return torch.full(shape, value, dtype=dtype_like(like), device=like.device)


def number(shape: tuple[int, ...], value: float) -> Tensor:
    """Return a constant tensor of float32, or of int64 where the number is an integer."""
    return torch.full(shape, value, dtype=torch.int64 if isinstance(value, int) else torch.float32)


def neutral_variance(shape: tuple[int, ...], eps: float, like: Tensor) -> Tensor:
    """Return a running variance that makes 1 with `eps`, of the dtype and device of another tensor."""
    return full(shape, complement(eps, dtype_like(like)), like)


def complement(eps: float, dtype: torch.dtype) -> float:
    """Return the `v` nearest to 1 - eps with `v + eps == 1` exactly in `dtype`, or 1 - eps where there is none.

    >>> bool(torch.tensor(complement(1e-5, torch.float32)) + 1e-5 == 1)
    True
    """
    one = torch.ones((), dtype=dtype.to_real())
    up = down = one - eps
    for _ in range(8):
        for candidate in (up, down):
            if bool(candidate + eps == one):
                return float(candidate)
        up, down = torch.nextafter(up, 2 * one), torch.nextafter(down, 0 * one)
    return float(one - eps)


def add(parts: Sequence[Tensor]) -> Tensor:
    """Add tensors up, from left to right."""
    return sum(parts[1:], parts[0])


def fold(
    layer: str,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    gamma: Tensor | None,
    beta: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Fold a batch norm into a layer with torch's own functions; returns weight and bias, detached."""
    with torch.no_grad():
        if layer == "linear":
            gamma = torch.ones_like(mean) if gamma is None else gamma
            beta = torch.zeros_like(mean) if beta is None else beta
            folded = fuse_linear_bn_weights(weight, bias, mean, var, eps, gamma, beta)
        else:
            # A bias is per output channel in both layouts; only the weight needs to know where that axis is.
            transposed = layer == "conv_transpose" and weight.dim() > 2
            folded = fuse_conv_bn_weights(weight, bias, mean, var, eps, gamma, beta, transposed)
    return folded[0].detach(), folded[1].detach()


def folded_weight(layer: str, weight: Tensor, var: Tensor, eps: float, gamma: Tensor | None) -> Tensor:
    """Return the weight of a layer with the batch norm behind it folded in."""
    zeros = torch.zeros_like(var)
    return fold(layer, weight, None, zeros, var, eps, gamma, zeros)[0]


def folded_bias(
    layer: str,
    mean: Tensor,
    var: Tensor,
    eps: float,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
) -> Tensor:
    """Return the bias of a layer with the batch norm behind it folded in."""
    return fold(layer, mean.new_ones(len(mean), 1), bias, mean, var, eps, gamma, beta)[1]


def row_scaled(value: Tensor, scale: Tensor) -> Tensor:
    """Multiply each row of a tensor by a number of its own."""
    return value * scale.reshape(-1, *[1] * (value.dim() - 1))


def transpose(value: Tensor) -> Tensor:
    """Return a matrix with its two axes exchanged, as a tensor of its own."""
    return value.t().contiguous()


def permute(value: Tensor, axes: Sequence[int]) -> Tensor:
    """Return a tensor with its axes in another order, as a tensor of its own."""
    return value.permute(*axes).contiguous()


def centred(kernel: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a kernel, `o i ...`, with zeros around it, so that it has other extents.

    >>> centred(torch.ones(1, 1, 1, 1), (3, 3))[0, 0]
    tensor([[0., 0., 0.],
            [0., 1., 0.],
            [0., 0., 0.]])
    """
    own = kernel.shape[2:]
    margins = [(whole - part) // 2 for whole, part in zip(shape, own, strict=True)]
    return nn.functional.pad(kernel, [margin for margin in reversed(margins) for _ in range(2)])


def placed(value: Tensor, rows: Sequence[int], total: int) -> Tensor:
    """Return a tensor of so many rows, of which some are given, and the others are 0.

    >>> placed(torch.ones(2, 1), [1, 3], 4).flatten()
    tensor([0., 1., 0., 1.])
    """
    full = value.new_zeros(total, *value.shape[1:])
    full[list(rows)] = value
    return full


def identity_kernel(shape: tuple[int, ...], groups: int, like: Tensor) -> Tensor:
    """Return the kernel of an identity convolution, `o i ...`: 1 at the centre, from each channel to itself, 0 elsewhere.

    >>> identity_kernel((2, 2), 1, torch.zeros(1))
    tensor([[1., 0.],
            [0., 1.]])
    """
    rows, columns = shape[:2]
    kernel = torch.zeros(shape)
    for row in range(min(rows, columns * groups)):
        kernel[(row, row % columns, *[extent // 2 for extent in shape[2:]])] = 1.0
    return kernel.to(like.device, dtype_like(like))


def is_wrapped(value: object) -> bool:
    """Whether a value is a tensor subclass that holds quantized numbers, as torchao's are.

    >>> is_wrapped(nn.Parameter(Tensor([0.0])))
    False
    """
    if not isinstance(value, Tensor) or type(value) is Tensor:
        return False
    return any("dequantize" in vars(base) for base in type(value).__mro__ if base.__module__.split(".")[0] != "torch")


def dequantize(value: Tensor) -> Tensor:
    """Return the float value of a tensor, quantized by torch, wrapped, or neither."""
    return value.dequantize() if value.is_quantized or is_wrapped(value) else value


def dequantized(integers: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Return `(integers - zero_point) * scale`, with a scale for each channel of an axis, or one for all where it is -1.

    A weight that is float already is returned as it is.

    >>> dequantized(torch.tensor([[1, 3], [1, 3]]), torch.tensor([0.5, 2.0]), torch.tensor([1, 0]), 0)
    tensor([[0., 1.],
            [2., 6.]])
    """
    if integers.is_floating_point():
        return integers
    shape = [-1 if own == axis else 1 for own in range(integers.dim())] if axis >= 0 else []
    return (integers - zero_point.reshape(shape)).to(scale.dtype) * scale.reshape(shape)


def quantized_part(value: Tensor, part: str) -> Tensor:
    """Return one part of a quantized tensor, in the dtypes that graphs of torch keep them in; a float one as it is."""
    if not value.is_quantized:
        return value
    if part == "integers":
        return value.int_repr()
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return torch.tensor([value.q_scale()]) if part == "scales" else torch.tensor([value.q_zero_point()])
    return value.q_per_channel_scales().float() if part == "scales" else value.q_per_channel_zero_points()


def quantize(weight: Tensor, scheme: dict[str, Any]) -> Tensor:
    """Quantize a float weight as torch's own observer of this kind does, bit for bit."""
    from torch.ao.nn.quantized.modules.utils import _quantize_weight
    from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

    options: dict[str, Any] = {
        "dtype": getattr(torch, scheme["dtype"]),
        "qscheme": getattr(torch, scheme["qscheme"]),
        "quant_min": scheme["quant_min"],
        "quant_max": scheme["quant_max"],
        "eps": scheme["eps"],
    }
    per_channel = scheme["qscheme"].startswith("per_channel")
    observer = PerChannelMinMaxObserver(ch_axis=scheme["axis"], **options) if per_channel else MinMaxObserver(**options)
    weight = weight.detach().float()
    observer(weight)
    quantized: Tensor = _quantize_weight(weight, observer)
    return quantized


def holds(weight: Tensor, scheme: dict[str, Any]) -> bool:
    """Whether a quantized tensor is of a scheme: dtype, granularity, axis, and the integers that it uses.

    Its integers and scales can then be copied into another model that quantizes this weight by the scheme.
    """
    name = str(weight.qscheme()).removeprefix("torch.")
    per_channel = scheme["qscheme"].startswith("per_channel")
    if weight.dtype is not getattr(torch, scheme["dtype"]) or name.startswith("per_channel") != per_channel:
        return False
    if per_channel and weight.q_per_channel_axis() != scheme["axis"]:
        return False
    if scheme["qscheme"].endswith("float_qparams") or name.endswith("float_qparams"):
        return name == str(scheme["qscheme"])
    integers = weight.int_repr()
    if int(integers.min()) < scheme["quant_min"] or int(integers.max()) > scheme["quant_max"]:
        return False
    zero_points = weight.q_per_channel_zero_points() if per_channel else torch.tensor(weight.q_zero_point())
    return not (scheme["qscheme"].endswith("symmetric") and bool(zero_points.any()))


def requantize(weight: Tensor, scheme: dict[str, Any]) -> Tensor:
    """Return a quantized tensor that has the scheme already; dequantize and quantize any other anew."""
    if weight.is_quantized and holds(weight, scheme):
        return clone(weight) if scheme["qscheme"].endswith("float_qparams") else weight
    return quantize(dequantize(weight), scheme)


def assemble(weight: Tensor, scales: Tensor, zero_points: Tensor, scheme: dict[str, Any]) -> Tensor:
    """Assemble a quantized tensor from integers (or a float weight, which is rounded), scales and zero points.

    Raises:
        ValueError: scales or zero points do not fit the weight and the scheme.
    """
    dtype: torch.dtype = getattr(torch, scheme["dtype"])
    weight, scales, zero_points = weight.detach(), scales.detach().double(), zero_points.detach().long()
    axis = scheme["axis"] if scheme["qscheme"].startswith("per_channel") else None
    check_qparams(weight.shape, dtype, scales, zero_points, axis)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notice of the deprecation of quantized dtypes
        if axis is not None:
            if weight.is_floating_point():
                return torch.quantize_per_channel(weight, scales, zero_points, axis, dtype)
            return torch._make_per_channel_quantized_tensor(weight, scales, zero_points, axis)
        scale, zero_point = scales.item(), int(zero_points.item())
        if weight.is_floating_point():
            return torch.quantize_per_tensor(weight, scale, zero_point, dtype)
        return torch._make_per_tensor_quantized_tensor(weight, scale, zero_point)
