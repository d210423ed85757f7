"""Expressions of quantized tensors, and of entries that pack several tensors.

>>> import torch
>>> from fxmap.expressions.base import Source
>>> whole = Quantized(Source("a"), Scheme("qint8", "per_tensor_symmetric", 0, -128, 127))
>>> state = {"a": torch.tensor([1.0, -0.5])}
>>> QuantizedPart(whole, "integers").evaluate(state)
tensor([127, -64], dtype=torch.int8)
>>> QuantizedPart(whole, "integers").evaluate(state, quantized=False)
tensor([ 1.0000, -0.5000])
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from fxmap.errors import MappingError
from fxmap.expressions import functions, packing
from fxmap.expressions.base import Expression, State
from fxmap.expressions.call import Call, Function
from fxmap.expressions.scheme import Scheme


def _unchanged(value: Any) -> Any:
    """Return a value unchanged: stands in for quantization where an expression is evaluated in float."""
    return value


@dataclass(frozen=True, slots=True)
class Quantized(Call):
    """A float tensor quantized by the destination's own kind of observer."""

    op: ClassVar[str] = "quantized"
    shown: ClassVar[str] = "quantize({of}, {scheme})"
    of: Expression
    scheme: Scheme

    def call(self, *, quantized: bool = True) -> tuple[Function, tuple[Any, ...]]:
        return (functions.quantize, (self.of, self.scheme.to_json())) if quantized else (_unchanged, (self.of,))

    def execute(self, function: Function, arguments: list[Any]) -> Any:
        with self.scheme.refusing(arguments[0]):
            return function(*arguments)


@dataclass(frozen=True, slots=True)
class Requantized(Call):
    """A quantized tensor in the destination's scheme: unchanged if it has this scheme, else dequantized and quantized."""

    op: ClassVar[str] = "requantized"
    shown: ClassVar[str] = "requantize({of}, {scheme})"
    of: Expression
    scheme: Scheme

    def call(self, *, quantized: bool = True) -> tuple[Function, tuple[Any, ...]]:
        if quantized:
            return functions.requantize, (self.of, self.scheme.to_json())
        return functions.dequantize, (self.of,)

    def execute(self, function: Function, arguments: list[Any]) -> Any:
        with self.scheme.refusing(arguments[0]):
            return function(*arguments)


@dataclass(frozen=True, slots=True)
class Assembled(Call):
    """The quantized tensor of a weight that is kept as integers (or in float, and rounded), scales and zero points."""

    op: ClassVar[str] = "assembled"
    shown: ClassVar[str] = "({of}, {scale}, {zero_point})"
    of: Expression
    scale: Expression
    zero_point: Expression
    scheme: Scheme

    def call(self, *, quantized: bool = True) -> tuple[Function, tuple[Any, ...]]:
        return functions.assemble, (self.of, self.scale, self.zero_point, self.scheme.to_json())

    def execute(self, function: Function, arguments: list[Any]) -> Any:
        with self.scheme.refusing(arguments[0]):
            return function(*arguments)

    def evaluate(self, state: State, *, quantized: bool = True) -> Any:
        if not quantized:
            value = self.of.evaluate(state, quantized=False)
            if value.is_floating_point():  # what a proof gives it: no scales belong to it
                return value
        return Call.evaluate(self, state)


@dataclass(frozen=True, slots=True)
class Dequantized(Call):
    """The float value of a quantized tensor: exact, scale times integer."""

    op: ClassVar[str] = "dequantized"
    function: ClassVar[Function] = functions.dequantize
    shown: ClassVar[str] = "dequantize({of})"
    of: Expression


@dataclass(frozen=True, slots=True)
class QuantizedPart(Call):
    """The "integers", "scales" or "zero_points" of a quantized tensor, for models that store each under a key of its own."""

    op: ClassVar[str] = "quantized_part"
    shown: ClassVar[str] = "{part} of {of}"
    of: Expression
    part: str

    def __post_init__(self) -> None:
        if self.part not in ("integers", "scales", "zero_points"):
            raise MappingError(f"not a part of a quantized tensor: {self.part!r}; there are integers, scales, zero_points")

    def call(self, *, quantized: bool = True) -> tuple[Function, tuple[Any, ...]]:
        return (functions.quantized_part, (self.of, self.part)) if quantized else (_unchanged, (self.of,))


@dataclass(frozen=True, slots=True)
class DequantizedParts(Call):
    """The float value of a weight that is kept as integers, scales and zero points along an axis; -1 for one of each."""

    op: ClassVar[str] = "dequantized_parts"
    function: ClassVar[Function] = functions.dequantized
    shown: ClassVar[str] = "dequantize({of}, {scale}, {zero_point})"
    of: Expression
    scale: Expression
    zero_point: Expression
    axis: int

    def evaluate(self, state: State, *, quantized: bool = True) -> Any:
        if not quantized:
            value = self.of.evaluate(state, quantized=False)
            if value.is_floating_point():  # what a proof gives it: no scales belong to it
                return value
        return Call.evaluate(self, state, quantized=quantized)


@dataclass(frozen=True, slots=True)
class Packed(Call):
    """Weight and bias in one entry, as torch's quantized linear layers keep them."""

    op: ClassVar[str] = "packed"
    function: ClassVar[Function] = packing.pair
    shown: ClassVar[str] = "pack({weight}, {bias})"
    weight: Expression
    bias: Expression | None = None


@dataclass(frozen=True, slots=True)
class PackedObject(Call):
    """Weights and biases in one object, as torch's dynamic recurrent layers keep them; `kind` as in `packing.pack`."""

    op: ClassVar[str] = "packed_object"
    kind: str
    parts: tuple[Expression, ...]

    def __post_init__(self) -> None:
        if self.kind not in packing.KINDS:
            raise MappingError(f"packed_object: {self.kind!r} is not one of {', '.join(packing.KINDS)}")

    def call(self, *, quantized: bool = True) -> tuple[Function, tuple[Any, ...]]:
        return (packing.pack, (self.kind, self.parts)) if quantized else (tuple, (self.parts,))

    def __str__(self) -> str:
        return f"pack({', '.join(map(str, self.parts))})"


@dataclass(frozen=True, slots=True)
class Unpacked(Call):
    """One part of a packed entry, in the order in which it was packed."""

    op: ClassVar[str] = "unpacked"
    function: ClassVar[Function] = packing.unpack_part
    shown: ClassVar[str] = "{of}[{index}]"
    of: Expression
    index: int
