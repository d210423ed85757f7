"""Schemes of weight quantization: dtype, granularity and range of integers, from which scales and zero points follow."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import MappingError, QuantizationError
from fxmap.expressions import functions
from fxmap.expressions.qparams import RANGES

# More than any weight has.
_MOST_AXES = 64


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a weight is quantized, in the words of torch's observers.

    `qscheme` is the name of a torch.qscheme ("per_tensor_symmetric", "per_channel_symmetric", ...), `axis` the channel
    axis of a per-channel scheme, `quant_min` and `quant_max` the integers that are used, `eps` the smallest scale.
    """

    dtype: str
    qscheme: str
    axis: int
    quant_min: int
    quant_max: int
    eps: float = torch.finfo(torch.float32).eps

    @property
    def per_channel(self) -> bool:
        """Whether every channel along `axis` has its own scale."""
        return self.qscheme.startswith("per_channel")

    @property
    def weight_only(self) -> bool:
        """Whether only the weight is quantized, as in embeddings, whose activations stay float."""
        return self.qscheme.endswith("float_qparams")

    def quantize(self, weight: Tensor) -> Tensor:
        """Quantize a float weight as torch's own observer of this kind does, bit for bit.

        Raises:
            QuantizationError: torch refuses the scheme for this tensor.
        """
        with self.refusing(weight):
            return functions.quantize(weight, self.to_json())

    @contextmanager
    def refusing(self, weight: Tensor) -> Iterator[None]:
        """Turn torch's refusal to quantize a weight by this scheme into a QuantizationError.

        Raises:
            QuantizationError: within, torch refused.
        """
        try:
            yield
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            raise QuantizationError(f"{self} is refused for a weight of shape {tuple(weight.shape)}: {error}") from error

    @classmethod
    def of(cls, weight: Tensor, *, narrow: bool = False) -> "Scheme":
        """Read the scheme off a quantized weight; `narrow` says that signed integers stop at -127 (see `is_narrow`)."""
        name = str(weight.qscheme()).removeprefix("torch.")
        signed = weight.dtype is torch.qint8
        axis = weight.q_per_channel_axis() if name.startswith("per_channel") else 0
        low, high = (-127 if narrow else -128, 127) if signed else (0, 15 if weight.dtype is torch.quint4x2 else 255)
        # A symmetric observer's weight calls itself affine, with zero points of 0.
        name = name.replace("affine", "symmetric") if signed else name
        return cls(str(weight.dtype).removeprefix("torch."), name, axis, low, high)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> "Scheme":
        """Parse a scheme from the dict that `to_json` returns.

        Raises:
            MappingError: fields are missing, unknown, of the wrong type, or not those of a scheme that torch's kernels know.
        """
        types = {"dtype": str, "qscheme": str, "axis": int, "quant_min": int, "quant_max": int, "eps": float}
        if not isinstance(data, dict) or set(data) != set(types):
            raise MappingError(f"not a quantization scheme: {data!r}; its fields are {', '.join(types)}")
        if any(type(data[name]) is not kind for name, kind in types.items()):
            raise MappingError(f"a field of this quantization scheme has the wrong type: {data!r}")
        scheme = cls(**data)
        scheme._refuse_unknown()
        return scheme

    def _refuse_unknown(self) -> None:
        """Check that torch knows the scheme: what its observers and kernels are given unchecked can end the process.

        Raises:
            MappingError: it does not; the message says what of it is unknown.
        """
        if self.dtype not in RANGES:
            raise MappingError(f"not a quantized dtype of torch: {self.dtype!r}; there are {', '.join(RANGES)}")
        if not isinstance(getattr(torch, self.qscheme, None), torch.qscheme):
            raise MappingError(f"not a quantization scheme of torch: {self.qscheme!r}")
        if self.weight_only and self.dtype == "qint32":
            raise MappingError(f"{self}: torch has no kernels for 32-bit integers with zero points in floating point")
        low, high = RANGES[self.dtype]
        if not low <= self.quant_min < self.quant_max <= high:
            raise MappingError(f"{self}: integers of {self.dtype} are {low} to {high}")
        if not 0 <= self.axis < _MOST_AXES:
            raise MappingError(f"{self}: axis {self.axis} is none of a weight")
        if not (self.eps > 0 and math.isfinite(self.eps)):
            raise MappingError(f"{self}: the smallest scale is finite and above 0, not {self.eps}")

    def __str__(self) -> str:
        axis = f", axis {self.axis}" if self.per_channel else ""
        return f"{self.dtype}, {self.qscheme.replace('_', ' ')}{axis}, {self.quant_min} to {self.quant_max}"


def is_narrow(weights: Iterable[Tensor], *, witnesses: int = 16) -> bool:
    """Tell whether weights were quantized to -127..127 and not to -128..127: the range itself is not stored.

    A symmetric observer over -128..127 maps a channel's largest magnitude, where it is negative, to -127.5, which rounds
    to -128 more often than to -127; over -127..127 no weight is -128. So no -128, and at least `witnesses` channels that
    end at -127, mean the narrow range; with less evidence the answer is torch's default, the full range.
    """
    lowest: list[Tensor] = []
    for weight in weights:
        if weight.dtype is not torch.qint8:
            continue
        integers = weight.int_repr()
        per_channel = weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        rows = integers.transpose(0, weight.q_per_channel_axis()).flatten(1) if per_channel else integers.flatten()[None]
        lowest.append(rows.amin(1))
    if not lowest:
        return False
    least = torch.cat(lowest)
    return int(least.min()) == -127 and int((least == -127).sum()) >= witnesses
