"""ONNX operators that are layers: convolutions, pools, norms, products, attention: https://onnx.ai/onnx/operators/."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxmap.sources.onnx.records.values import integers, plain

_CONVOLUTIONS: dict[int, tuple[Any, Any]] = {
    1: (F.conv1d, F.conv_transpose1d),
    2: (F.conv2d, F.conv_transpose2d),
    3: (F.conv3d, F.conv_transpose3d),
}


def _sides(
    rank: int, auto_pad: str, pads: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    extents: Sequence[int],
) -> list[tuple[int, int]]:  # fmt: skip
    """Return the padding of every axis, before and after it."""
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for extent, size, stride, dilation in zip(extents, kernel, strides, dilations, strict=True):
            needed = max((-(-extent // stride) - 1) * stride + dilation * (size - 1) + 1 - extent, 0)
            small, large = needed // 2, needed - needed // 2
            found.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
        return found
    amounts = list(pads) or [0] * (2 * rank)
    return list(zip(amounts[:rank], amounts[rank:], strict=True))


def _padded(x: Tensor, sides: Sequence[tuple[int, int]], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """Pad what no layer of torch pads by itself, and return the padding that is left to the layer."""
    if all(before == after for before, after in sides):
        return x, [before for before, _ in sides]
    return F.pad(x, [amount for side in reversed(sides) for amount in side], value=value), [0] * len(sides)


def _conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: Sequence[int] = (),
    group: int = 1, kernel_shape: Sequence[int] = (), pads: Sequence[int] = (), strides: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    rank = x.dim() - 2
    stride, dilation = list(strides) or [1] * rank, list(dilations) or [1] * rank
    x, padding = _padded(x, _sides(rank, auto_pad, pads, weight.shape[2:], stride, dilation, x.shape[2:]))
    result: Tensor = _CONVOLUTIONS[rank][0](x, weight, bias, stride, padding, dilation, group)
    return result


def _conv_transpose(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: Sequence[int] = (),
    group: int = 1, kernel_shape: Sequence[int] = (), output_padding: Sequence[int] = (), output_shape: Sequence[int] = (),
    pads: Sequence[int] = (), strides: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    rank = x.dim() - 2
    stride, dilation = list(strides) or [1] * rank, list(dilations) or [1] * rank
    extra = list(output_padding) or [0] * rank
    full = [
        (n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(x.shape[2:], stride, dilation, weight.shape[2:], strict=True)
    ]
    amounts = list(pads) or [0] * (2 * rank)
    sides = list(zip(amounts[:rank], amounts[rank:], strict=True))
    if output_shape or auto_pad.startswith("SAME"):
        wanted = list(output_shape)[-rank:] or [n * s for n, s in zip(x.shape[2:], stride, strict=True)]
        totals = [max(f + e - w, 0) for f, e, w in zip(full, extra, wanted, strict=True)]
        upper = auto_pad == "SAME_UPPER"
        sides = [(t // 2, t - t // 2) if upper or not auto_pad.startswith("SAME") else (t - t // 2, t // 2) for t in totals]
    transposed: Callable[..., Tensor] = _CONVOLUTIONS[rank][1]
    if all(before == after for before, after in sides):
        return transposed(x, weight, bias, stride, [before for before, _ in sides], extra, group, dilation)
    whole: Tensor = transposed(x, weight, bias, stride, 0, extra, group, dilation)
    index = [slice(None), slice(None), *(slice(b, n - a) for (b, a), n in zip(sides, whole.shape[2:], strict=True))]
    return whole[tuple(index)]


def _max_pool(
    x: Tensor, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Sequence[int] = (),
    pads: Sequence[int] = (), storage_order: int = 0, strides: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    rank = len(kernel_shape)
    stride, dilation = list(strides) or [1] * rank, list(dilations) or [1] * rank
    sides = _sides(rank, auto_pad, pads, kernel_shape, stride, dilation, x.shape[2:])
    # torch pads by at most half a kernel.
    half = all(before <= size // 2 for (before, _), size in zip(sides, kernel_shape, strict=True))
    if half:
        x, padding = _padded(x, sides, -math.inf)
    else:
        x, padding = F.pad(x, [amount for side in reversed(sides) for amount in side], value=-math.inf), [0] * rank
    pool: Callable[..., Tensor] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[rank]
    return pool(x, list(kernel_shape), stride, padding, dilation, bool(ceil_mode))


def _average_pool(
    x: Tensor, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
    dilations: Sequence[int] = (), pads: Sequence[int] = (), strides: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    rank = len(kernel_shape)
    stride, dilation = list(strides) or [1] * rank, list(dilations) or [1] * rank
    if any(step != 1 for step in dilation):
        raise NotImplementedError("AveragePool with dilations")
    sides = _sides(rank, auto_pad, pads, kernel_shape, stride, dilation, x.shape[2:])
    pool: Callable[..., Tensor] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[rank]
    if all(before == after for before, after in sides):
        return pool(x, list(kernel_shape), stride, [side[0] for side in sides], bool(ceil_mode), bool(count_include_pad))
    padded, _ = _padded(x, sides)
    mean = pool(padded, list(kernel_shape), stride, 0, bool(ceil_mode))
    if count_include_pad:
        return mean
    share = pool(_padded(torch.ones_like(x[:1, :1]), sides)[0], list(kernel_shape), stride, 0, bool(ceil_mode))
    return mean / share


def _global(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x, list(range(2, x.dim())), keepdim=True)


def _batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5, momentum: float = 0.9,
    training_mode: int = 0, spatial: int = 1,
) -> Tensor:  # fmt: skip
    if training_mode:
        raise NotImplementedError("BatchNormalization in training mode")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


def _instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    shape = list(x.shape[axis % x.dim() :])
    return F.layer_norm(x, shape, scale.expand(shape), None if bias is None else bias.expand(shape), epsilon)


def _rms_norm(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:
    shape = list(x.shape[axis % x.dim() :])
    return F.rms_norm(x, shape, scale.expand(shape), epsilon)


def _group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    if scale.numel() == num_groups != x.shape[1]:  # opset 18: one number for each group
        scale, bias = (value.repeat_interleave(x.shape[1] // num_groups) for value in (scale, bias))
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def _lp_norm(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / length


def _gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0, **transposed: int
) -> Tensor:  # fmt: skip
    rows, columns_first = a.T if transposed.get("transA") else a, bool(transposed.get("transB"))
    if alpha == 1 and columns_first and (c is None or (beta == 1 and c.dim() == 1)):
        return F.linear(rows, b, c)
    product = rows @ (b.T if columns_first else b)
    product = product if alpha == 1 else alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    # A matrix on the right is a layer, however the batches on the left are laid out.
    return F.linear(a, b.T) if b.dim() == 2 < a.dim() else torch.matmul(a, b)


def _einsum(*values: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *values)


_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners")


def _resize(
    x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None, *,
    coordinate_transformation_mode: str = "half_pixel", cubic_coeff_a: float = -0.75, mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor", antialias: int = 0, axes: Sequence[int] | None = None,
    exclude_outside: int = 0, extrapolation_value: float = 0.0, keep_aspect_ratio_policy: str = "stretch",
) -> Tensor:  # fmt: skip
    if exclude_outside or keep_aspect_ratio_policy != "stretch":
        raise NotImplementedError("Resize with exclude_outside or another policy for the aspect ratio")
    places = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    factors: dict[int, float] = {}
    if sizes is not None and sizes.numel():
        wanted = dict(zip(places, integers(sizes), strict=True))
    elif scales is not None:
        factors = dict(zip(places, plain(scales).reshape(-1).tolist(), strict=True))
        wanted = {axis: math.floor(x.shape[axis] * by + 1e-6) for axis, by in factors.items()}
    else:
        raise NotImplementedError("Resize without scales and sizes")
    if any(wanted.get(axis, x.shape[axis]) != x.shape[axis] for axis in (0, 1)):
        raise NotImplementedError("Resize of channels")
    size = [wanted.get(axis, x.shape[axis]) for axis in range(2, x.dim())]
    # torch takes the ratio of the sizes, unless it is given the scales; exporters write what the code had.
    target: dict[str, Any] = {"size": size}
    if factors:
        target = {"scale_factor": [factors.get(axis, 1.0) for axis in range(2, x.dim())]}
    if mode == "nearest":
        return F.interpolate(x, mode=_nearest(x, size, coordinate_transformation_mode, nearest_mode), **target)
    corners = coordinate_transformation_mode == "align_corners"
    alone = coordinate_transformation_mode == "pytorch_half_pixel" and 1 in size
    if coordinate_transformation_mode not in _COORDINATES or alone or (mode == "cubic" and cubic_coeff_a != -0.75):
        raise NotImplementedError(f"Resize, {mode} with the coordinates {coordinate_transformation_mode}")
    kinds = {"linear": {3: "linear", 4: "bilinear", 5: "trilinear"}, "cubic": {4: "bicubic"}}
    return F.interpolate(x, mode=kinds[mode][x.dim()], align_corners=corners, antialias=bool(antialias), **target)


def _nearest(x: Tensor, size: Sequence[int], coordinates: str, rounding: str) -> str:
    """Return torch's mode: it rounds down from the corner, or takes the pixel in which the centre lies."""
    if coordinates == "asymmetric" and rounding == "floor":
        return "nearest"
    whole = all(new % old == 0 for new, old in zip(size, x.shape[2:], strict=True))
    if coordinates == "half_pixel" and rounding in ("round_prefer_floor", "round_prefer_ceil") and whole:
        return "nearest"  # no centre lies between two pixels
    raise NotImplementedError(f"Resize, nearest by {rounding} with the coordinates {coordinates}")


def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, past_key: Tensor | None = None,
    past_value: Tensor | None = None, lengths: Tensor | None = None, *, is_causal: int = 0, kv_num_heads: int = 0,
    q_num_heads: int = 0, scale: float | None = None, softcap: float = 0.0, softmax_precision: int = 1,
    qk_matmul_output_mode: int = 0,
) -> Tensor:  # fmt: skip
    if past_key is not None or past_value is not None or lengths is not None or softcap:
        raise NotImplementedError("Attention with a cache, lengths or a softcap")
    flat = q.dim() == 3
    if flat:
        counts = q_num_heads, kv_num_heads or q_num_heads, kv_num_heads or q_num_heads
        q, k, v = (x.reshape(*x.shape[:2], n, -1).transpose(1, 2) for x, n in zip((q, k, v), counts, strict=True))
    grouped = q.shape[1] != k.shape[1]
    found = F.scaled_dot_product_attention(q, k, v, mask, 0.0, bool(is_causal), scale=scale, enable_gqa=grouped)
    return found.transpose(1, 2).flatten(2) if flat else found


LAYERS: dict[str, Callable[..., Any]] = {
    "Attention": _attention,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Dropout": lambda x, *_, **__: x,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": lambda x, *, size, alpha=1e-4, beta=0.75, bias=1.0: F.local_response_norm(x, size, alpha, beta, bias),
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "RMSNormalization": _rms_norm,
    "Resize": _resize,
    "Upsample": lambda x, scales=None, **options: _resize(
        x, None, scales, coordinate_transformation_mode="asymmetric", nearest_mode="floor", **options
    ),
}
