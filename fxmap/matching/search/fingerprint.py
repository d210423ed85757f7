"""Fingerprints: a few numbers that identify a value, whatever its layout is."""

from typing import TypeGuard

import torch
from torch import Tensor

# Values count as the same below this relative difference. Models that differ by an eps or by a float32 softmax are still
# matched; the proof reports that they differ. Random values are never this close in every moment.
SAME = 1e-3


def single(tensor: Tensor) -> Tensor:
    """Return a floating-point tensor in single precision; other tensors are returned unchanged."""
    return tensor.float() if tensor.is_floating_point() else tensor


def fingerprint(value: Tensor) -> Tensor:
    """Return moments of a value that do not depend on its layout, scaled so that differences are relative errors.

    They have comparable magnitudes for values of any size. Zeros from padding or a causal mask change none of them.
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
    """Whether two fingerprints are equal, as those of one value in two layouts are."""
    return bool((one - other).abs().max() <= SAME)


def is_data(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a floating-point tensor with several elements, which a fingerprint can identify."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1
