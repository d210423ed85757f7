"""Expressions that compute: constants, sums, scales, folded norms.

>>> import torch
>>> from fxmap.expressions.base import Source
>>> shifted = Shifted(Source("bn.running_var"), 0.5)
>>> shifted.evaluate({"bn.running_var": torch.ones(2)})
tensor([1.5000, 1.5000])
>>> shifted.python()
"(state['bn.running_var'] + 0.5)"
"""

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fxmap.expressions import functions
from fxmap.expressions.base import Expression
from fxmap.expressions.call import Call, Function


@dataclass(frozen=True, slots=True)
class Full(Call):
    """A constant tensor of the dtype and device of another one: a bias or a norm that the source does not have."""

    op: ClassVar[str] = "full"
    function: ClassVar[Function] = functions.full
    shown: ClassVar[str] = "full({shape}, {value:g})"
    shape: tuple[int, ...]
    value: float
    like: Expression


@dataclass(frozen=True, slots=True)
class Number(Call):
    """A number that the source's graph has as a literal: a scale, or a zero point, which is an integer.

    >>> Number((1,), 3).evaluate({})
    tensor([3])
    """

    op: ClassVar[str] = "number"
    function: ClassVar[Function] = functions.number
    shown: ClassVar[str] = "{value:g}"
    shape: tuple[int, ...]
    value: float


@dataclass(frozen=True, slots=True)
class NeutralVariance(Call):
    """The running variance with which a batch norm of weight 1 and mean 0 changes nothing: variance + eps = 1.

    In floating point 1 - eps + eps need not be 1, so the value is the number nearest to 1 - eps whose sum with eps, in
    the tensor's own dtype, is exactly 1: folding the norm back returns the convolution bit for bit.
    """

    op: ClassVar[str] = "neutral_variance"
    function: ClassVar[Function] = functions.neutral_variance
    shown: ClassVar[str] = "full({shape}, 1 - {eps:g})"
    shape: tuple[int, ...]
    eps: float
    like: Expression


@dataclass(frozen=True, slots=True)
class Shifted(Call):
    """A tensor plus a constant: a different eps of two norms, absorbed in the running variance."""

    op: ClassVar[str] = "shifted"
    function: ClassVar[Function] = operator.add
    shown: ClassVar[str] = "{of} + {amount:g}"
    of: Expression
    amount: float


@dataclass(frozen=True, slots=True)
class Difference(Call):
    """One tensor minus another: a layer's bias, absorbed in the running mean of the norm behind it."""

    op: ClassVar[str] = "difference"
    function: ClassVar[Function] = operator.sub
    shown: ClassVar[str] = "{of} - {minus}"
    of: Expression
    minus: Expression


@dataclass(frozen=True, slots=True)
class Scaled(Call):
    """A tensor times a constant: a weight that one model scales before it uses it."""

    op: ClassVar[str] = "scaled"
    function: ClassVar[Function] = operator.mul
    shown: ClassVar[str] = "{of} * {amount:g}"
    of: Expression
    amount: float


@dataclass(frozen=True, slots=True)
class Sum(Call):
    """Tensors added up: a class token and its position, of which one model keeps the sum alone."""

    op: ClassVar[str] = "sum"
    function: ClassVar[Function] = functions.add
    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


@dataclass(frozen=True, slots=True)
class FoldedWeight(Call):
    """The weight of a convolution or linear layer with the batch norm behind it folded in.

    `w * (gamma * rsqrt(var + eps))`, by torch.nn.utils.fusion, whose order of operations is the one that
    torch.ao.quantization.fuse_modules uses: the result is bit-equal to fusing the modules.
    `layer` is "conv" (weight `o i ...`), "conv_transpose" (weight `i o ...`) or "linear" (weight `o i`).
    """

    op: ClassVar[str] = "folded_weight"
    function: ClassVar[Function] = functions.folded_weight
    layer: str
    weight: Expression
    var: Expression
    eps: float
    gamma: Expression | None = None

    def __str__(self) -> str:
        return f"fold({self.weight}, {self.gamma or 1}, {self.var}, eps={self.eps:g})"


@dataclass(frozen=True, slots=True)
class FoldedBias(Call):
    """The bias of a convolution or linear layer with the batch norm behind it folded in; see `FoldedWeight`."""

    op: ClassVar[str] = "folded_bias"
    function: ClassVar[Function] = functions.folded_bias
    layer: str
    mean: Expression
    var: Expression
    eps: float
    bias: Expression | None = None
    gamma: Expression | None = None
    beta: Expression | None = None

    def __str__(self) -> str:
        return f"fold_bias({self.bias or 0}, {self.mean}, {self.var}, {self.gamma or 1}, {self.beta or 0}, eps={self.eps:g})"


@dataclass(frozen=True, slots=True)
class RowScaled(Call):
    """A tensor whose rows are multiplied by one number each: a scale by channel behind a layer, in its weight and bias."""

    op: ClassVar[str] = "row_scaled"
    function: ClassVar[Function] = functions.row_scaled
    shown: ClassVar[str] = "rows({of}) * {scale}"
    of: Expression
    scale: Expression


@dataclass(frozen=True, slots=True)
class Centred(Call):
    """A kernel in the middle of a larger one of zeros, `shape` its extents: a 1x1 convolution as a 3x3 one."""

    op: ClassVar[str] = "centred"
    function: ClassVar[Function] = functions.centred
    shown: ClassVar[str] = "centre({of}, {shape})"
    of: Expression
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class IdentityKernel(Call):
    """The weight of a convolution (`o i kh kw`) or linear layer that computes the identity: a skip connection as a layer."""

    op: ClassVar[str] = "identity_kernel"
    function: ClassVar[Function] = functions.identity_kernel
    shown: ClassVar[str] = "identity({shape})"
    shape: tuple[int, ...]
    groups: int
    like: Expression


@dataclass(frozen=True, slots=True)
class Product(Call):
    """A matrix, `o i`, times a vector: a shift of a layer's input, moved into the layer's bias."""

    op: ClassVar[str] = "product"
    function: ClassVar[Function] = operator.matmul
    shown: ClassVar[str] = "{of} @ {vector}"
    of: Expression
    vector: Expression


@dataclass(frozen=True, slots=True)
class WeightNormed(Call):
    """A weight stored by weight norm as direction `v` and size `g`: `v * g / |v|`, over all axes but `axis`, or all for -1.

    Salimans and Kingma 2016, arXiv 1602.07868.
    """

    op: ClassVar[str] = "weight_normed"
    function: ClassVar[Function] = torch._weight_norm
    shown: ClassVar[str] = "weight_norm({of}, {scale})"
    of: Expression
    scale: Expression
    axis: int


@dataclass(frozen=True, slots=True)
class Size(Call):
    """The `g` of weight norm: the norm of a weight over all axes but `axis`, or over all where that is -1."""

    op: ClassVar[str] = "size"
    shown: ClassVar[str] = "|{of}|"
    of: Expression
    axis: int

    def call(self, *, quantized: bool = True) -> tuple[Function, tuple[Any, ...]]:
        return torch.norm_except_dim, (self.of, 2, self.axis)
