"""Schemes of weight quantization: dtype, granularity and range of integers, from which scales and zero points follow."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import MappingError, QuantizationError
from fxmap.expressions import functions


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
            MappingError: fields are missing, unknown, or of the wrong type.
        """
        types = {"dtype": str, "qscheme": str, "axis": int, "quant_min": int, "quant_max": int, "eps": float}
        if not isinstance(data, dict) or set(data) != set(types):
            raise MappingError(f"not a quantization scheme: {data!r}; its fields are {', '.join(types)}")
        if any(type(data[name]) is not kind for name, kind in types.items()):
            raise MappingError(f"a field of this quantization scheme has the wrong type: {data!r}")
        if not isinstance(getattr(torch, data["dtype"], None), torch.dtype):
            raise MappingError(f"not a dtype of torch: {data['dtype']!r}")
        if not isinstance(getattr(torch, data["qscheme"], None), torch.qscheme):
            raise MappingError(f"not a quantization scheme of torch: {data['qscheme']!r}")
        return cls(**data)

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
