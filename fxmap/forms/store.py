"""Stores: how one key of a model's state dict holds tensors of the float twin (as they are, quantized, or packed)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fxmap.expressions.base import Expression, Source
from fxmap.expressions.quantized import (
    Assembled,
    Dequantized,
    DequantizedParts,
    Packed,
    PackedObject,
    Quantized,
    QuantizedPart,
    Requantized,
    Unpacked,
)
from fxmap.expressions.scheme import Scheme

COPY = "copy"


@dataclass(frozen=True, slots=True)
class Store:
    """The contents of one state dict key, in tensors of the float twin.

    `packed` says how, if it holds more than a tensor: "tuple" (weight and bias, of linear layers), "linear" (the same in an
    object, of recurrent cells), or "cell" (weight and bias of the inputs, and `hidden`, those of the hidden state).
    `wrapped` says that it is a tensor subclass, which quantizes what is loaded into it. `part` says that it is the
    "integers", "scales" or "zero_points" of a quantized weight alone; the key of its integers knows where the others are
    read, `beside`, scales before zero points; so does that of a float weight that the model `rounds` when it is used. A
    "copy" holds the same weight in float, and nothing reads it.
    """

    weight: str
    bias: str | None = None
    scheme: Scheme | None = None
    packed: str = ""
    hidden: tuple[str, str] | None = None
    wrapped: bool = False
    part: str = ""
    beside: tuple[Expression, Expression] | None = None
    rounds: Scheme | None = None

    @property
    def paths(self) -> tuple[str | None, ...]:
        """The paths of the twin tensors in packing order; None where there is no bias."""
        if self.hidden is not None:
            return self.weight, self.hidden[0], self.bias, self.hidden[1]
        return (self.weight, self.bias) if self.packed else (self.weight,)

    @property
    def quantized(self) -> bool:
        """Whether the weights of the key are quantized, by torch or as tensor subclasses."""
        return self.scheme is not None or self.wrapped

    @property
    def names(self) -> list[str]:
        """The paths of the twin tensors that the key holds."""
        return [path for path in self.paths if path is not None]

    def joined(self, tensors: Mapping[str, Any]) -> Any:
        """Return the key's float value: a tensor, or a tuple of them where it is packed."""
        values = tuple(None if path is None else tensors[path] for path in self.paths)
        return values if self.packed else values[0]

    def parts(self, value: Any) -> dict[str, Any]:
        """Split a value of `joined` into the twin tensors by path."""
        values = value if self.packed else (value,)
        return {path: part for path, part in zip(self.paths, values, strict=True) if path is not None}

    def encode(self, tensors: Mapping[str, Expression], held: Mapping[Expression, Expression]) -> Expression | None:
        """Make the key's expression from those of the twin's tensors; None where one of them has no expression.

        `held` says which of these the source holds quantized, see `held_by`.
        """
        if any(path not in tensors for path in self.names):
            return None
        parts = [None if path is None else tensors[path] for path in self.paths]
        weights = 2 if self.hidden is not None else 1
        if self.wrapped and isinstance(parts[0], Dequantized):
            # A weight that is wrapped on both sides is copied, if both configurations are equal (see `fitted`).
            return parts[0].of
        if self.scheme is not None:
            parts[:weights] = [
                Requantized(held[part], self.scheme) if part in held else Quantized(part, self.scheme)
                for part in parts[:weights]
                if part is not None
            ]
        if self.part and self.part != COPY and parts[0] is not None:
            return QuantizedPart(parts[0], self.part)
        if self.packed in ("linear", "cell"):
            return PackedObject(self.packed, tuple(part for part in parts if part is not None))
        assert parts[0] is not None
        return Packed(parts[0], parts[1]) if self.packed else parts[0]

    def held_by(self, key: str) -> dict[Expression, Expression]:
        """Return, for every quantized weight of this key, its float expression and the expression of the tensor itself."""
        whole = Source(key)
        scheme = self.rounds or self.scheme
        if self.beside is not None and scheme is not None:
            return {made: Assembled(whole, *self.beside, scheme) for made in self.decode(key).values()}
        return {made: made.of for made in self.decode(key).values() if isinstance(made, Dequantized)}

    def decode(self, key: str) -> dict[str, Expression]:
        """Return the expressions that make the twin tensors from this key."""
        whole = Source(key)
        if self.beside is not None and self.scheme is not None:
            axis = self.scheme.axis if self.scheme.per_channel else -1
            return {self.weight: DequantizedParts(whole, *self.beside, axis)}
        if self.part:
            return {}
        found: dict[str, Expression] = {}
        weights = 2 if self.hidden is not None else 1
        for index, path in enumerate(self.paths):
            if path is None:
                continue
            part: Expression = Unpacked(whole, index) if self.packed else whole
            found[path] = Dequantized(part) if self.quantized and index < weights else part
        return found
