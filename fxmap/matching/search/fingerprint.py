"""Fingerprints: numbers that tell a value whatever its layout is."""

from typing import TypeGuard

import torch
from torch import Tensor

# Values are the same below this relative difference. Models that differ by an eps or by a float32 softmax are still
# recognised; that they differ is for the proof to say. Random values are never this close in every moment.
SAME = 1e-3


def single(tensor: Tensor) -> Tensor:
    """Return a tensor in single precision, if it is floating-point."""
    return tensor.float() if tensor.is_floating_point() else tensor


def fingerprint(value: Tensor) -> Tensor:
    """Return moments of a value that no layout changes, each up to a relative error.

    Their order is one for a value of any size. Zeros, which a window or a causal mask pads with, change none of them.
    """
    flat = value.detach().flatten()
    squares = flat * flat
    square, fourth = squares.sum(), torch.dot(squares, squares)
    if not bool(square > 0):
        return torch.full((4,), -1e3, dtype=value.dtype)
    size = square.sqrt()
    mean = flat.sum() / size
    return torch.stack(
        (
            size.log(),
            mean.sign() * mean.abs().log1p(),
            torch.dot(squares, flat) / (size * fourth.sqrt()),
            (fourth / square**2).log(),
        )
    )


def same_prints(one: Tensor, other: Tensor) -> bool:
    """Whether two fingerprints are those of one value."""
    return bool((one - other).abs().max() <= SAME)


def is_data(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a floating-point tensor of more than one number: what can be told by a fingerprint."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1
