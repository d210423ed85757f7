"""Narrowing: numbers that a smaller dtype cannot hold, which torch would write as others, or as 0.

>>> refuse_narrowed("steps", torch.tensor([1, 300]), torch.zeros(2, dtype=torch.int8))
Traceback (most recent call last):
...
fxmap.errors.LoadError: steps: 1 of 2 values of torch.int64 are beyond -128 to 127, which torch.int8 holds (300): they ...
"""

import warnings

import torch
from torch import Tensor

from fxmap.errors import LoadError, ProofWarning
from fxmap.expressions.functions import is_wrapped
from fxmap.files.lazy import materialise


def refuse_narrowed(key: str, value: Tensor, own: Tensor) -> None:
    """Check that the dtype of a destination's own tensor holds the numbers that are written into it; rounding is fine.

    Numbers that are too small for it are written with a warning, where more is lost than the rounding of the largest.

    Raises:
        LoadError: integers would wrap, or finite numbers become infinite; the message says how many.

    Cost: one look at the numbers, where the dtypes differ and the destination's is the smaller one.
    """
    if value.dtype == own.dtype or any(
        is_wrapped(one) or one.is_quantized or one.layout != torch.strided for one in (value, own)
    ):
        return
    if value.is_meta or not value.numel() or torch.bool in (value.dtype, own.dtype):
        return
    if value.is_floating_point() or value.is_complex():
        _refuse_infinite(key, value, own)
        _warn_of_vanished(key, value, own)
    elif not own.is_floating_point() and not own.is_complex():
        _refuse_wrapped(key, value, own)


def is_kept(value: Tensor, own: Tensor) -> bool:
    """Whether a destination of whole numbers or of true and false holds each number of a value of another kind as it is.

    Old files have masks as bytes, and counters in floating point. Whole numbers for a weight in floating point are another
    thing: they may be those of a quantized one.

    >>> is_kept(torch.tensor([0.0, 3.0]), torch.zeros(2, dtype=torch.int64)), is_kept(torch.tensor([1]), torch.zeros(1))
    (True, False)
    """
    if own.is_floating_point() or own.is_complex() or own.is_quantized or value.is_meta:
        return False
    made = materialise(value)
    return torch.equal(made.to(own.dtype).to(made.dtype), made)


def _refuse_wrapped(key: str, value: Tensor, own: Tensor) -> None:
    bounds = torch.iinfo(own.dtype)
    if torch.iinfo(value.dtype).min >= bounds.min and torch.iinfo(value.dtype).max <= bounds.max:
        return
    wide = value.to(torch.int64) if value.dtype is not torch.uint64 else value.double()
    beyond = (wide < bounds.min) | (wide > bounds.max)
    if count := int(beyond.sum()):
        raise LoadError(
            f"{key}: {count} of {value.numel()} values of {value.dtype} are beyond {bounds.min} to {bounds.max}, which "
            f"{own.dtype} holds ({wide[beyond][0].item()}): they would wrap. Nothing was written; give the destination the "
            "source's dtype there"
        )


def _refuse_infinite(key: str, value: Tensor, own: Tensor) -> None:
    most = torch.finfo(own.dtype).max
    if torch.finfo(value.dtype).max <= most:
        return
    real = torch.view_as_real(value) if value.is_complex() else value
    beyond = torch.isfinite(real) & (real.abs() > most)
    if count := int(beyond.sum()):
        raise LoadError(
            f"{key}: {count} of {value.numel()} values of {value.dtype} are beyond {most:g}, the largest of {own.dtype} "
            f"({real[beyond][0].item():g}): they would be infinite. Nothing was written; give the destination the source's "
            "dtype there, or scale these values"
        )


def _warn_of_vanished(key: str, value: Tensor, own: Tensor) -> None:
    """Warn of numbers below those that a dtype holds, such as 1e-9 in half precision, beside none that is much larger."""
    bounds, held = torch.finfo(own.dtype), torch.finfo(value.dtype)
    if held.tiny * held.eps >= bounds.tiny * bounds.eps:
        return
    real = torch.view_as_real(value) if value.is_complex() else value
    largest = float(real.abs().max())
    # Below its normal numbers, a dtype rounds by steps of one size; that counts where it is more than a step of the largest.
    if not 0 < largest < bounds.tiny:
        return
    made = real.to(own.dtype.to_real())
    lost = (made.double() - real.double()).abs() > bounds.eps * largest
    if count := int(lost.sum()):
        zeros = int(((real != 0) & (made == 0)).sum())
        warnings.warn(
            f"{key}: {count} of {value.numel()} values of {value.dtype} are too small for {own.dtype} (the largest is "
            f"{largest:.2g}): {zeros} become 0, and the others lose digits. They are written so; give the destination the "
            "source's dtype there, or scale these values",
            ProofWarning,
            stacklevel=3,
        )
