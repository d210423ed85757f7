"""Expressions that compute: constants, sums, scales, folded norms."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fxmap.expressions.base import Expression, State, evaluate_optional
from fxmap.expressions.functions import centred, fold, identity_kernel, neutral_variance


@dataclass(frozen=True, slots=True)
class Full(Expression):
    """A constant tensor of the dtype and device of another one: a bias or a norm that the source does not have."""

    op: ClassVar[str] = "full"
    shape: tuple[int, ...]
    value: float
    like: Expression

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        like = self.like.evaluate(state, quantized=quantized)
        dtype = like.dtype if like.is_floating_point() else torch.float32
        return torch.full(self.shape, self.value, dtype=dtype, device=like.device)

    def python(self) -> str:
        return f"torch.full({self.shape!r}, {self.value!r}, dtype=torch.float32)"

    def __str__(self) -> str:
        return f"full({list(self.shape)}, {self.value:g})"


@dataclass(frozen=True, slots=True)
class Number(Expression):
    """A number that the source's graph has as a literal: a scale, or a zero point, which is an integer.

    >>> Number((1,), 3).evaluate({})
    tensor([3])
    """

    op: ClassVar[str] = "number"
    shape: tuple[int, ...]
    value: float

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        return torch.full(self.shape, self.value, dtype=self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.int64 if isinstance(self.value, int) else torch.float32

    def python(self) -> str:
        return f"torch.full({self.shape!r}, {self.value!r}, dtype={self._dtype})"

    def __str__(self) -> str:
        return f"{self.value:g}"


@dataclass(frozen=True, slots=True)
class NeutralVariance(Expression):
    """The running variance with which a batch norm of weight 1 and mean 0 changes nothing: variance + eps = 1.

    In floating point 1 - eps + eps need not be 1, so the value is the number nearest to 1 - eps whose sum with eps, in
    the tensor's own dtype, is exactly 1: folding the norm back returns the convolution bit for bit.
    """

    op: ClassVar[str] = "neutral_variance"
    shape: tuple[int, ...]
    eps: float
    like: Expression

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        like = self.like.evaluate(state, quantized=quantized)
        dtype = like.dtype if like.is_floating_point() else torch.float32
        return torch.full(self.shape, neutral_variance(self.eps, dtype), dtype=dtype, device=like.device)

    def python(self) -> str:
        return f"torch.full({self.shape!r}, {neutral_variance(self.eps, torch.float32)!r}, dtype=torch.float32)"

    def __str__(self) -> str:
        return f"full({list(self.shape)}, 1 - {self.eps:g})"


@dataclass(frozen=True, slots=True)
class Shifted(Expression):
    """A tensor plus a constant: a different eps of two norms, absorbed in the running variance."""

    op: ClassVar[str] = "shifted"
    of: Expression
    amount: float

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        return value + self.amount

    def python(self) -> str:
        return f"({self.of.python()} + {self.amount!r})"

    def __str__(self) -> str:
        return f"{self.of} + {self.amount:g}"


@dataclass(frozen=True, slots=True)
class Difference(Expression):
    """One tensor minus another: a layer's bias, absorbed in the running mean of the norm behind it."""

    op: ClassVar[str] = "difference"
    of: Expression
    minus: Expression

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        minus: Tensor = self.minus.evaluate(state, quantized=quantized)
        return value - minus

    def python(self) -> str:
        return f"({self.of.python()} - {self.minus.python()})"

    def __str__(self) -> str:
        return f"{self.of} - {self.minus}"


@dataclass(frozen=True, slots=True)
class Scaled(Expression):
    """A tensor times a constant: a weight that one model scales before it uses it."""

    op: ClassVar[str] = "scaled"
    of: Expression
    amount: float

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        return value * self.amount

    def python(self) -> str:
        return f"({self.of.python()} * {self.amount!r})"

    def __str__(self) -> str:
        return f"{self.of} * {self.amount:g}"


@dataclass(frozen=True, slots=True)
class Sum(Expression):
    """Tensors added up: a class token and its position, of which one model keeps the sum alone."""

    op: ClassVar[str] = "sum"
    parts: tuple[Expression, ...]

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        parts: list[Tensor] = [part.evaluate(state, quantized=quantized) for part in self.parts]
        return sum(parts[1:], parts[0])

    def python(self) -> str:
        return f"({' + '.join(part.python() for part in self.parts)})"

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


@dataclass(frozen=True, slots=True)
class FoldedWeight(Expression):
    """The weight of a convolution or linear layer with the batch norm behind it folded in.

    `w * (gamma * rsqrt(var + eps))`, by torch.nn.utils.fusion, whose order of operations is the one that
    torch.ao.quantization.fuse_modules uses: the result is bit-equal to fusing the modules.
    `layer` is "conv" (weight `o i ...`), "conv_transpose" (weight `i o ...`) or "linear" (weight `o i`).
    """

    op: ClassVar[str] = "folded_weight"
    layer: str
    weight: Expression
    var: Expression
    eps: float
    gamma: Expression | None = None

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        weight, var, gamma = (evaluate_optional(x, state, quantized) for x in (self.weight, self.var, self.gamma))
        zeros = torch.zeros_like(var)
        return fold(self.layer, weight, None, zeros, var, self.eps, gamma, zeros)[0]

    def python(self) -> str:
        gamma = "None" if self.gamma is None else self.gamma.python()
        var = self.var.python()
        statistics = f"torch.zeros_like({var}), {var}, {self.eps!r}"
        return f"fold({self.layer!r}, {self.weight.python()}, None, {statistics}, {gamma}, None)[0]"

    def __str__(self) -> str:
        return f"fold({self.weight}, {self.gamma or 1}, {self.var}, eps={self.eps:g})"


@dataclass(frozen=True, slots=True)
class FoldedBias(Expression):
    """The bias of a convolution or linear layer with the batch norm behind it folded in; see `FoldedWeight`."""

    op: ClassVar[str] = "folded_bias"
    layer: str
    mean: Expression
    var: Expression
    eps: float
    bias: Expression | None = None
    gamma: Expression | None = None
    beta: Expression | None = None

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        bias, mean, var, gamma, beta = (
            evaluate_optional(x, state, quantized) for x in (self.bias, self.mean, self.var, self.gamma, self.beta)
        )
        return fold(self.layer, mean.new_ones(len(mean), 1), bias, mean, var, self.eps, gamma, beta)[1]

    def python(self) -> str:
        bias, gamma, beta = ("None" if x is None else x.python() for x in (self.bias, self.gamma, self.beta))
        mean = self.mean.python()
        statistics = f"{mean}, {self.var.python()}, {self.eps!r}"
        return f"fold({self.layer!r}, torch.ones_like({mean})[:, None], {bias}, {statistics}, {gamma}, {beta})[1]"

    def __str__(self) -> str:
        return f"fold_bias({self.bias or 0}, {self.mean}, {self.var}, {self.gamma or 1}, {self.beta or 0}, eps={self.eps:g})"


@dataclass(frozen=True, slots=True)
class RowScaled(Expression):
    """A tensor whose rows are multiplied by one number each: a scale by channel behind a layer, in its weight and bias."""

    op: ClassVar[str] = "row_scaled"
    of: Expression
    scale: Expression

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        scale: Tensor = self.scale.evaluate(state, quantized=quantized)
        return value * scale.reshape(-1, *[1] * (value.dim() - 1))

    def python(self) -> str:
        return f"row_scaled({self.of.python()}, {self.scale.python()})"

    def __str__(self) -> str:
        return f"rows({self.of}) * {self.scale}"


@dataclass(frozen=True, slots=True)
class Centred(Expression):
    """A kernel in the middle of a larger one of zeros, `shape` its extents: a 1x1 convolution as a 3x3 one."""

    op: ClassVar[str] = "centred"
    of: Expression
    shape: tuple[int, ...]

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        return centred(value, self.shape)

    def python(self) -> str:
        return f"centred({self.of.python()}, {self.shape!r})"

    def __str__(self) -> str:
        return f"centre({self.of}, {list(self.shape)})"


@dataclass(frozen=True, slots=True)
class IdentityKernel(Expression):
    """The weight of a convolution (`o i kh kw`) or linear layer that gives its input: what a skip connection adds."""

    op: ClassVar[str] = "identity_kernel"
    shape: tuple[int, ...]
    groups: int
    like: Expression

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        like = self.like.evaluate(state, quantized=quantized)
        dtype = like.dtype if like.is_floating_point() else torch.float32
        return identity_kernel(self.shape, self.groups).to(like.device, dtype)

    def python(self) -> str:
        return f"identity_kernel({self.shape!r}, {self.groups!r})"

    def __str__(self) -> str:
        return f"identity({list(self.shape)})"


@dataclass(frozen=True, slots=True)
class Product(Expression):
    """A matrix, `o i`, times a vector: what a layer makes of a constant that is added to its input."""

    op: ClassVar[str] = "product"
    of: Expression
    vector: Expression

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        vector: Tensor = self.vector.evaluate(state, quantized=quantized)
        return value @ vector

    def python(self) -> str:
        return f"({self.of.python()} @ {self.vector.python()})"

    def __str__(self) -> str:
        return f"{self.of} @ {self.vector}"


@dataclass(frozen=True, slots=True)
class WeightNormed(Expression):
    """A weight that is kept as direction and size: `v * g / |v|`, the norm over all axes but one, or over all for -1.

    Salimans and Kingma 2016, arXiv 1602.07868.
    """

    op: ClassVar[str] = "weight_normed"
    of: Expression
    scale: Expression
    axis: int

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        scale: Tensor = self.scale.evaluate(state, quantized=quantized)
        return torch._weight_norm(value, scale, self.axis)

    def python(self) -> str:
        return f"torch._weight_norm({self.of.python()}, {self.scale.python()}, {self.axis})"

    def __str__(self) -> str:
        return f"weight_norm({self.of}, {self.scale})"


@dataclass(frozen=True, slots=True)
class Size(Expression):
    """The norm of a weight over all axes but one, or over all where it is -1: the size that weight norm keeps apart."""

    op: ClassVar[str] = "size"
    of: Expression
    axis: int

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        return torch.norm_except_dim(value, 2, self.axis)

    def python(self) -> str:
        return f"torch.norm_except_dim({self.of.python()}, 2, {self.axis})"

    def __str__(self) -> str:
        return f"|{self.of}|"
