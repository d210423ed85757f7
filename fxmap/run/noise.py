"""Quantization noise: the difference of two models, or of the values of two state dicts, as a signal-to-noise ratio in dB.

6 dB are a factor of two in amplitude; for equal values, the ratio is infinite.
Cost: one forward pass of each model.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import ArgumentError, QuantizationError
from fxmap.expressions.packing import is_object, unpack
from fxmap.model.restoring import let_through
from fxmap.model.tensors import tensors_of


def sqnr(expected: Tensor, actual: Tensor) -> float:
    """Return the signal-to-quantization-noise ratio in dB: 20 log10(|expected| / |expected - actual|).

    Raises:
        ArgumentError: they are no tensors of one shape.

    >>> sqnr(torch.tensor([10.0]), torch.tensor([9.0]))
    20.0
    """
    if not isinstance(expected, Tensor) or not isinstance(actual, Tensor):
        raise ArgumentError(f"sqnr compares two tensors, not {type(expected).__name__} and {type(actual).__name__}")
    if expected.shape != actual.shape:
        raise ArgumentError(f"sqnr compares tensors of one shape, not {list(expected.shape)} and {list(actual.shape)}")
    expected, actual = expected.detach(), actual.detach()
    noise = float(torch.linalg.vector_norm(expected.double() - actual.double()))
    signal = float(torch.linalg.vector_norm(expected.double()))
    return 20 * math.log10(signal / noise) if noise and signal else math.inf


def equal_states(own: Any, made: Any) -> bool:
    """Whether two values of state dicts are equal: tensors, quantized tensors, packed parameters, or tuples of these.

    >>> equal_states(torch.ones(2), torch.ones(2)), equal_states(torch.ones(2), torch.ones(2, dtype=torch.float16))
    (True, False)
    """
    if is_object(own) and is_object(made):
        own, made = unpack(own), unpack(made)
    if isinstance(own, tuple) and isinstance(made, tuple):
        return len(own) == len(made) and all(equal_states(a, b) for a, b in zip(own, made, strict=True))
    if isinstance(own, Tensor) and isinstance(made, Tensor):
        return own.shape == made.shape and own.dtype == made.dtype and torch.equal(own, made)
    return own is made


def loss(reference: Callable[[], Any], filled: Callable[[], Any]) -> float:
    """Run two models without gradients, and return the signal-to-noise ratio of their first outputs.

    Args:
        reference, filled: functions that run a model in eval mode, and return its outputs.

    Raises:
        QuantizationError: a model does not run, or the outputs have different shapes.

    >>> loss(lambda: torch.tensor([10.0]), lambda: (torch.tensor([9.0]),))
    20.0
    """
    try:
        with torch.no_grad():
            expected, actual = tensors_of(reference()), tensors_of(filled())
    except Exception as error:  # whatever a model raises
        let_through(error)
        raise QuantizationError(f"the models could not be run on it: {error}") from error
    if not expected or not actual or expected[0].shape != actual[0].shape:
        raise QuantizationError("the outputs have different shapes")
    return sqnr(expected[0], actual[0])
