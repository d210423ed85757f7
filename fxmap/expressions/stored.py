"""Expressions of weights that a file or a model stores as several tensors: a mask, singular vectors, scales, packed bits.

>>> import torch
>>> from fxmap.expressions.base import Source
>>> pruned = Times(Source("weight_orig"), Source("weight_mask"))
>>> pruned.evaluate({"weight_orig": torch.ones(2), "weight_mask": torch.tensor([0.0, 1.0])})
tensor([0., 1.])
>>> pruned.python()
"(state['weight_orig'] * state['weight_mask'])"
"""

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

from fxmap.expressions import decoding
from fxmap.expressions.base import Expression
from fxmap.expressions.call import Call, Function


@dataclass(frozen=True, slots=True)
class Times(Call):
    """Two tensors multiplied number by number: a weight and the mask that prunes it."""

    op: ClassVar[str] = "times"
    function: ClassVar[Function] = operator.mul
    shown: ClassVar[str] = "{of} * {by}"
    of: Expression
    by: Expression


@dataclass(frozen=True, slots=True)
class SpectralNormed(Call):
    """A weight divided by its largest singular value, which u and v give; the rows of the matrix lie along `axis`."""

    op: ClassVar[str] = "spectral_normed"
    function: ClassVar[Function] = decoding.spectral_normed
    shown: ClassVar[str] = "{of} / sigma({u}, {v})"
    of: Expression
    u: Expression
    v: Expression
    axis: int


@dataclass(frozen=True, slots=True)
class BlockScaled(Call):
    """Numbers of few bits (fp8, int8) times their scales: one, one for each row, or one for each `block`."""

    op: ClassVar[str] = "block_scaled"
    of: Expression
    scale: Expression
    block: tuple[int, ...] = ()
    zero_point: Expression | None = None

    def call(self, *, quantized: bool = True) -> tuple[Function, tuple[Any, ...]]:
        return decoding.block_scaled, (self.of, self.scale, self.zero_point, self.block)

    def __str__(self) -> str:
        return f"dequantize({self.of}, {self.scale}{'' if self.zero_point is None else f', {self.zero_point}'})"


@dataclass(frozen=True, slots=True)
class LookedUp(Call):
    """Numbers of a table by codes of 4 or 8 bits, each `block` of them times its scale (bitsandbytes)."""

    op: ClassVar[str] = "looked_up"
    function: ClassVar[Function] = decoding.looked_up
    shown: ClassVar[str] = "look_up({of}, {table}, {scale})"
    of: Expression
    table: Expression
    scale: Expression
    bits: int
    block: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gptq(Call):
    """A weight in words of GPTQ, with zeros, scales and, where inputs were reordered, the group of each input."""

    op: ClassVar[str] = "gptq"
    of: Expression
    zeros: Expression
    scales: Expression
    bits: int
    shift: int
    groups: Expression | None = None

    def call(self, *, quantized: bool = True) -> tuple[Function, tuple[Any, ...]]:
        return decoding.gptq, (self.of, self.zeros, self.scales, self.groups, self.bits, self.shift)

    def __str__(self) -> str:
        return f"gptq({self.of}, {self.zeros}, {self.scales}, {self.bits} bits)"


@dataclass(frozen=True, slots=True)
class Awq(Call):
    """A weight in words of AWQ, with zeros and scales."""

    op: ClassVar[str] = "awq"
    function: ClassVar[Function] = decoding.awq
    shown: ClassVar[str] = "awq({of}, {zeros}, {scales}, {bits} bits)"
    of: Expression
    zeros: Expression
    scales: Expression
    bits: int
