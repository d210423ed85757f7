"""Expressions of quantized tensors, and of entries that pack several tensors."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fxmap.errors import MappingError
from fxmap.expressions.base import Expression, State, evaluate_optional
from fxmap.expressions.functions import dequantized, quantized_part
from fxmap.expressions.packing import KINDS as PACKED_KINDS
from fxmap.expressions.packing import pack, unpack
from fxmap.expressions.scheme import Scheme
from fxmap.expressions.wrapped import dequantize


@dataclass(frozen=True, slots=True)
class Quantized(Expression):
    """A float tensor quantized by the destination's own kind of observer."""

    op: ClassVar[str] = "quantized"
    of: Expression
    scheme: Scheme

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        return self.scheme.quantize(value) if quantized else value

    def python(self) -> str:
        return f"quantize({self.of.python()}, {self.scheme.to_json()!r})"

    def __str__(self) -> str:
        return f"quantize({self.of}, {self.scheme})"


@dataclass(frozen=True, slots=True)
class Requantized(Expression):
    """A quantized tensor as it is, where it is of the destination's scheme; otherwise what it holds, quantized anew."""

    op: ClassVar[str] = "requantized"
    of: Expression
    scheme: Scheme

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        return self.scheme.requantize(value) if quantized else dequantize(value)

    def python(self) -> str:
        return f"requantize({self.of.python()}, {self.scheme.to_json()!r})"

    def __str__(self) -> str:
        return f"requantize({self.of}, {self.scheme})"


@dataclass(frozen=True, slots=True)
class Assembled(Expression):
    """The quantized tensor of a weight that is kept as integers (or in float, and rounded), scales and zero points."""

    op: ClassVar[str] = "assembled"
    of: Expression
    scale: Expression
    zero_point: Expression
    scheme: Scheme

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        if not quantized and value.is_floating_point():
            return value
        return self.scheme.assemble(value, self.scale.evaluate(state), self.zero_point.evaluate(state))

    def python(self) -> str:
        parts = f"{self.of.python()}, {self.scale.python()}, {self.zero_point.python()}"
        return f"assemble({parts}, {self.scheme.to_json()!r})"

    def __str__(self) -> str:
        return f"({self.of}, {self.scale}, {self.zero_point})"


@dataclass(frozen=True, slots=True)
class Dequantized(Expression):
    """The float value of a quantized tensor: exact, scale times integer."""

    op: ClassVar[str] = "dequantized"
    of: Expression

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        return dequantize(self.of.evaluate(state, quantized=quantized))

    def python(self) -> str:
        return f"{self.of.python()}.dequantize()"

    def __str__(self) -> str:
        return f"dequantize({self.of})"


@dataclass(frozen=True, slots=True)
class QuantizedPart(Expression):
    """The "integers", "scales" or "zero_points" of a quantized tensor, where a model keeps them in entries of their own."""

    op: ClassVar[str] = "quantized_part"
    of: Expression
    part: str

    def __post_init__(self) -> None:
        if self.part not in ("integers", "scales", "zero_points"):
            raise MappingError(f"not a part of a quantized tensor: {self.part!r}; there are integers, scales, zero_points")

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        return quantized_part(value, self.part) if quantized and value.is_quantized else value

    def python(self) -> str:
        return f"quantized_part({self.of.python()}, {self.part!r})"

    def __str__(self) -> str:
        return f"{self.part} of {self.of}"


@dataclass(frozen=True, slots=True)
class DequantizedParts(Expression):
    """The float value of a weight that is kept as integers, scales and zero points along an axis; -1 for one of each."""

    op: ClassVar[str] = "dequantized_parts"
    of: Expression
    scale: Expression
    zero_point: Expression
    axis: int

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        if value.is_floating_point():
            return value
        scale: Tensor = self.scale.evaluate(state, quantized=quantized)
        zero_point: Tensor = self.zero_point.evaluate(state, quantized=quantized)
        return dequantized(value, scale, zero_point, self.axis)

    def python(self) -> str:
        parts = f"{self.of.python()}, {self.scale.python()}, {self.zero_point.python()}"
        return f"dequantized_parts({parts}, {self.axis})"

    def __str__(self) -> str:
        return f"dequantize({self.of}, {self.scale}, {self.zero_point})"


@dataclass(frozen=True, slots=True)
class Packed(Expression):
    """Weight and bias in one entry, as torch's quantized linear layers keep them."""

    op: ClassVar[str] = "packed"
    weight: Expression
    bias: Expression | None = None

    def evaluate(self, state: State, *, quantized: bool = True) -> tuple[Tensor, Tensor | None]:
        return evaluate_optional(self.weight, state, quantized), evaluate_optional(self.bias, state, quantized)

    def python(self) -> str:
        return f"({self.weight.python()}, {None if self.bias is None else self.bias.python()})"

    def __str__(self) -> str:
        return f"pack({self.weight}, {self.bias})"


@dataclass(frozen=True, slots=True)
class PackedObject(Expression):
    """Weights and biases in one object, as torch's dynamic recurrent layers keep them; `kind` as in `packing.pack`."""

    op: ClassVar[str] = "packed_object"
    kind: str
    parts: tuple[Expression, ...]

    def __post_init__(self) -> None:
        if self.kind not in PACKED_KINDS:
            raise MappingError(f"packed_object: {self.kind!r} is not one of {', '.join(PACKED_KINDS)}")

    def evaluate(self, state: State, *, quantized: bool = True) -> Any:
        parts = tuple(part.evaluate(state, quantized=quantized) for part in self.parts)
        return pack(self.kind, parts) if quantized else parts

    def python(self) -> str:
        return f"pack({self.kind!r}, [{', '.join(part.python() for part in self.parts)}])"

    def __str__(self) -> str:
        return f"pack({', '.join(map(str, self.parts))})"


@dataclass(frozen=True, slots=True)
class Unpacked(Expression):
    """One part of a packed entry, in the order in which it was packed."""

    op: ClassVar[str] = "unpacked"
    of: Expression
    index: int

    def evaluate(self, state: State, *, quantized: bool = True) -> Any:
        return unpack(self.of.evaluate(state, quantized=quantized))[self.index]

    def python(self) -> str:
        return f"unpack({self.of.python()})[{self.index}]"

    def __str__(self) -> str:
        return f"{self.of}[{self.index}]"
