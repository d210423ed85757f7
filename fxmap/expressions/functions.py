"""What expressions compute, as functions of tensors that need torch alone."""

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights


def neutral_variance(eps: float, dtype: torch.dtype) -> float:
    """Return the `v` nearest to 1 - eps with `v + eps == 1` exactly in `dtype`, or 1 - eps where there is none.

    >>> bool(torch.tensor(neutral_variance(1e-5, torch.float32)) + 1e-5 == 1)
    True
    """
    one = torch.ones((), dtype=dtype)
    up = down = one - eps
    for _ in range(8):
        for candidate in (up, down):
            if bool(candidate + eps == one):
                return float(candidate)
        up, down = torch.nextafter(up, 2 * one), torch.nextafter(down, 0 * one)
    return float(one - eps)


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


def identity_kernel(shape: tuple[int, ...], groups: int) -> Tensor:
    """Return the kernel that gives its input, by output channel, input channel in its group, and position.

    >>> identity_kernel((2, 2), 1)
    tensor([[1., 0.],
            [0., 1.]])
    """
    rows, columns = shape[:2]
    kernel = torch.zeros(shape)
    for row in range(min(rows, columns * groups)):
        kernel[(row, row % columns, *[extent // 2 for extent in shape[2:]])] = 1.0
    return kernel


def quantized_part(value: Tensor, part: str) -> Tensor:
    """Return one part of a quantized tensor, in the dtypes that graphs of torch keep them in."""
    if part == "integers":
        return value.int_repr()
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return torch.tensor([value.q_scale()]) if part == "scales" else torch.tensor([value.q_zero_point()])
    return value.q_per_channel_scales().float() if part == "scales" else value.q_per_channel_zero_points()


def dequantized(integers: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Return `(integers - zero_point) * scale`, with a scale for each channel of an axis, or one for all where it is -1.

    >>> dequantized(torch.tensor([[1, 3], [1, 3]]), torch.tensor([0.5, 2.0]), torch.tensor([1, 0]), 0)
    tensor([[0., 1.],
            [2., 6.]])
    """
    shape = [-1 if own == axis else 1 for own in range(integers.dim())] if axis >= 0 else []
    return (integers - zero_point.reshape(shape)).to(scale.dtype) * scale.reshape(shape)
