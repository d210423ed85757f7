"""ONNX operators element by element, comparisons and choices: https://onnx.ai/onnx/operators/."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxmap.sources.onnx.records.values import exact, plain


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def _number(value: Tensor) -> float:
    """Return the number that was meant: a run in single precision records 1e-12, and not what comes nearest to it."""
    number: float = plain(value).item()
    return exact(number) if value.is_floating_point() else number


def _clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None, **bounds: float) -> Tensor:
    # Before opset 11 the bounds are attributes.
    lowest = bounds.get("min") if low is None else _number(low)
    highest = bounds.get("max") if high is None else _number(high)
    return x if lowest is None and highest is None else torch.clamp(x, lowest, highest)


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda *values: reduce(function, values)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    # The slopes of channels come as [c, 1, 1].
    channels = slope.numel() == 1 or (x.dim() > 1 and slope.numel() == x.shape[1] == slope.shape[0])
    return F.prelu(x, slope.reshape(-1)) if channels else torch.where(x < 0, x * slope, x)


def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def _hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    # torch's has a slope of 1/6 and an offset of 1/2; files have these in float32.
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def _is_infinite(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if detect_negative:
        found = found | torch.isneginf(x)
    return found | torch.isposinf(x) if detect_positive else found


def _shrink(x: Tensor, *, lambd: float = 0.5, bias: float = 0.0) -> Tensor:
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Add": torch.add,
    "And": torch.logical_and,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseNot": torch.bitwise_not,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Ceil": torch.ceil,
    "Celu": lambda x, *, alpha=1.0: F.celu(x, alpha),
    "Clip": _clip,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Div": _divide,
    "Elu": lambda x, *, alpha=1.0: F.elu(x, alpha),
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Gelu": _gelu,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "IsInf": _is_infinite,
    "IsNaN": torch.isnan,
    "LeakyRelu": lambda x, *, alpha=0.01: F.leaky_relu(x, alpha),
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "Max": _variadic(torch.maximum),
    "Mean": lambda *values: sum(values) / len(values),
    "Min": _variadic(torch.minimum),
    "Mish": F.mish,
    "Mod": _modulo,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "PRelu": _prelu,
    "Pow": lambda x, y: torch.pow(x, plain(y).item() if y.numel() == 1 else y).to(x.dtype),
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Round": torch.round,
    "Selu": lambda x, *, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875: (
        F.selu(x) if (abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.0507010) < 1e-6) else gamma * F.elu(x, alpha)
    ),
    "Shrink": _shrink,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Sum": _variadic(torch.add),
    "Swish": lambda x, *, alpha=1.0: F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x),
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "ThresholdedRelu": lambda x, *, alpha=1.0: F.threshold(x, alpha, 0.0),
    "Where": torch.where,
    "Xor": torch.logical_xor,
}
