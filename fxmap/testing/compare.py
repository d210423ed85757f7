"""Values of state dicts bit by bit, and outputs of models by their signal-to-noise ratio."""

import math
from typing import Any

import torch
from torch import Tensor, nn


def same_value(a: Any, b: Any) -> bool:
    """Tell whether two values of state dicts are equal bit for bit; quantized tensors by integers, scales and zero points.

    >>> same_value((torch.ones(2), None), (torch.ones(2), None)), same_value(torch.ones(2), torch.ones(1))
    (True, False)
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return _same_quantized(a, b) if a.is_quantized else _same_bits(a, b)
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(same_value(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    a, b = (value.detach().contiguous().reshape(-1).view(torch.uint8) for value in (a, b))
    return torch.equal(a, b)


def _same_quantized(a: Tensor, b: Tensor) -> bool:
    if a.qscheme() != b.qscheme() or not torch.equal(a.int_repr(), b.int_repr()):
        return False
    if a.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return a.q_scale() == b.q_scale() and a.q_zero_point() == b.q_zero_point()
    return (
        a.q_per_channel_axis() == b.q_per_channel_axis()
        and _same_bits(a.q_per_channel_scales(), b.q_per_channel_scales())
        and _same_bits(a.q_per_channel_zero_points(), b.q_per_channel_zero_points())
    )


def output(model: nn.Module, batch: Tensor) -> Tensor:
    """Run a model in eval mode, without gradients, and put its mode back; an exported one as it is."""
    training = model.training
    exported = "eval" in vars(model)  # torch.export forbids the method
    if not exported:
        model.eval()
    with torch.no_grad():
        result: Tensor = model(batch)
    if not exported:
        model.train(training)
    return result


def sqnr(expected: Tensor, actual: Tensor) -> float:
    """Return the signal-to-noise ratio in dB: 20 log10(|expected| / |expected - actual|), infinite where they are equal."""
    noise = float(torch.linalg.vector_norm(expected.double() - actual.double()))
    signal = float(torch.linalg.vector_norm(expected.double()))
    return math.inf if noise == 0 else 20 * math.log10(signal / noise) if signal else -math.inf
