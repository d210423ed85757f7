"""The loss by quantization, as a signal-to-noise ratio in dB."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxmap.quantization.packing import is_object, unpack
from fxmap.values import tensors_of

if TYPE_CHECKING:
    from fxmap.inputs import Inputs


def sqnr(expected: Tensor, actual: Tensor) -> float:
    """Return the signal-to-quantization-noise ratio in dB: 20 log10(|expected| / |expected - actual|).

    >>> sqnr(torch.tensor([10.0]), torch.tensor([9.0]))
    20.0
    """
    expected, actual = expected.detach(), actual.detach()
    noise = float(torch.linalg.vector_norm(expected.double() - actual.double()))
    signal = float(torch.linalg.vector_norm(expected.double()))
    return 20 * math.log10(signal / noise) if noise and signal else math.inf


def equal_states(own: Any, made: Any) -> bool:
    """Whether two values of state dicts are the same: tensors, quantized ones too, or packed ones."""
    if is_object(own) and is_object(made):
        own, made = unpack(own), unpack(made)
    if isinstance(own, tuple) and isinstance(made, tuple):
        return len(own) == len(made) and all(equal_states(a, b) for a, b in zip(own, made, strict=True))
    if isinstance(own, Tensor) and isinstance(made, Tensor):
        return own.shape == made.shape and own.dtype == made.dtype and torch.equal(own, made)
    return own is made


def loss(src: nn.Module, dst: nn.Module, inputs: "tuple[Inputs, Inputs]") -> float | None:
    """Run both models as they are, in eval mode, and return the ratio of their first outputs; None where they do not run.

    Args:
        src, dst: replicas, which are switched to eval mode.
        inputs: what each is called with.
    """
    with torch.no_grad():
        try:
            expected, actual = (
                tensors_of(choice.call(model.eval())) for model, choice in zip((src, dst), inputs, strict=True)
            )
        except (RuntimeError, TypeError, ValueError):
            return None
    if not expected or not actual or expected[0].shape != actual[0].shape:
        return None
    return sqnr(expected[0], actual[0])
