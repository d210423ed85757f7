"""Weight quantization: which integers, scales and zero points a layer's weight gets."""

import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import MappingError, QuantizationError
from fxmap.expressions.packing import clone
from fxmap.expressions.wrapped import dequantize


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
        """Whether it is the scheme of embeddings, whose activations stay float."""
        return self.qscheme.endswith("float_qparams")

    def quantize(self, weight: Tensor) -> Tensor:
        """Quantize a float weight as torch's own observer of this kind does, bit for bit.

        Raises:
            QuantizationError: torch refuses the scheme for this tensor.
        """
        from torch.ao.nn.quantized.modules.utils import _quantize_weight
        from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

        options: dict[str, Any] = {
            "dtype": getattr(torch, self.dtype),
            "qscheme": getattr(torch, self.qscheme),
            "quant_min": self.quant_min,
            "quant_max": self.quant_max,
            "eps": self.eps,
        }
        observer = PerChannelMinMaxObserver(ch_axis=self.axis, **options) if self.per_channel else MinMaxObserver(**options)
        weight = weight.detach().float()
        try:
            observer(weight)
            quantized: Tensor = _quantize_weight(weight, observer)
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            raise QuantizationError(f"{self} is refused for a weight of shape {tuple(weight.shape)}: {error}") from error
        return quantized

    def holds(self, weight: Tensor) -> bool:
        """Whether a quantized tensor is one of this scheme: dtype, granularity, axis, and the integers that it uses.

        Its integers and scales then mean in another model of the scheme what they mean in its own.
        """
        name = str(weight.qscheme()).removeprefix("torch.")
        if weight.dtype is not getattr(torch, self.dtype) or name.startswith("per_channel") != self.per_channel:
            return False
        if self.per_channel and weight.q_per_channel_axis() != self.axis:
            return False
        if self.weight_only or name.endswith("float_qparams"):
            return name == self.qscheme
        integers = weight.int_repr()
        within = self.quant_min <= int(integers.min()) and int(integers.max()) <= self.quant_max
        return within and not (self.qscheme.endswith("symmetric") and bool(_zero_points(weight).any()))

    def requantize(self, weight: Tensor) -> Tensor:
        """Return a quantized tensor as it is where it is of this scheme; else quantize what it holds anew."""
        if weight.is_quantized and self.holds(weight):
            return clone(weight) if self.weight_only else weight
        return self.quantize(dequantize(weight))

    def assemble(self, weight: Tensor, scales: Tensor, zero_points: Tensor) -> Tensor:
        """Make the quantized tensor of integers, or of a float weight that is rounded so, with scales and zero points."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        weight, scales, zero_points = weight.detach(), scales.detach().double(), zero_points.detach().long()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's notice of the deprecation of quantized dtypes
            if self.per_channel:
                if weight.is_floating_point():
                    return torch.quantize_per_channel(weight, scales, zero_points, self.axis, dtype)
                return torch._make_per_channel_quantized_tensor(weight, scales, zero_points, self.axis)
            scale, zero_point = scales.item(), int(zero_points.item())
            if weight.is_floating_point():
                return torch.quantize_per_tensor(weight, scale, zero_point, dtype)
            return torch._make_per_tensor_quantized_tensor(weight, scale, zero_point)

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
        """Read what `to_json` wrote.

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


def _zero_points(weight: Tensor) -> Tensor:
    if weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
        return weight.q_per_channel_zero_points()
    return torch.tensor([weight.q_zero_point()])


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
