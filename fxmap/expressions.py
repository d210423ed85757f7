"""Expressions: how one destination tensor is made from source tensors.

An expression is an immutable tree whose leaves are source keys. It can be evaluated on a state dict, printed,
written as JSON, and written as Python. No expression holds values of a model, so a mapping is small and can be reused.

>>> import torch
>>> expression = FoldedBias("conv", Source("bn.running_mean"), Source("bn.running_var"), 1e-5,
...                         gamma=Source("bn.weight"), beta=Source("bn.bias"))
>>> state = {"bn.running_mean": torch.ones(2), "bn.running_var": torch.ones(2), "bn.weight": torch.ones(2),
...          "bn.bias": torch.ones(2)}
>>> expression.evaluate(state).shape
torch.Size([2])
>>> parse(expression.to_json()) == expression
True
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from fxmap.errors import MappingError
from fxmap.quantization.packing import KINDS as PACKED_KINDS
from fxmap.quantization.packing import pack, unpack
from fxmap.quantization.scheme import Scheme
from fxmap.quantization.wrapped import dequantize

State = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Expression(ABC):
    """A tree over source keys. `evaluate` never changes the tensors that it reads."""

    op: ClassVar[str]

    @abstractmethod
    def evaluate(self, state: State, *, quantized: bool = True) -> Any:
        """Make the tensor from a source state dict.

        With `quantized=False`, quantizing and dequantizing are left out: what remains is the float function of the
        mapping, which is what a proof compares.

        Raises:
            MappingError: a source key is absent; the message names it.
        """

    @abstractmethod
    def python(self) -> str:
        """Write the expression as Python over a dict named `state`."""

    def rebuilt(self, change: Callable[["Expression"], "Expression"]) -> "Expression":
        """Return the same expression of changed operands."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            if isinstance(value, Expression):
                values[name] = change(value)
            elif name == "parts":
                values[name] = tuple(map(change, value))
        return type(self)(**values)

    def operands(self) -> Iterator["Expression"]:
        """Yield the expressions that this one is made of."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Expression):
                yield value
            elif isinstance(value, tuple):
                yield from (part for part in value if isinstance(part, Expression))

    def sources(self) -> Iterator[str]:
        """Yield the source keys that are read, from left to right."""
        for operand in self.operands():
            yield from operand.sources()

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and numbers."""
        return {"op": self.op} | {
            field.name: _plain(value) for field in fields(self) if (value := getattr(self, field.name)) is not None
        }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value.to_json() if isinstance(value, Expression | Scheme) else value


@dataclass(frozen=True, slots=True)
class Source(Expression):
    """A source tensor as it is. On its own it is a rename."""

    op: ClassVar[str] = "source"
    key: str

    def evaluate(self, state: State, *, quantized: bool = True) -> Any:
        if self.key not in state:
            raise MappingError(f"{self.key}: not in the source state dict, which has {len(state)} keys")
        return state[self.key]

    def sources(self) -> Iterator[str]:
        yield self.key

    def python(self) -> str:
        return f"state[{self.key!r}]"

    def __str__(self) -> str:
        return self.key


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


def neutral_variance(eps: float, dtype: torch.dtype) -> float:
    """Return the `v` nearest to 1 - eps with `v + eps == 1` exactly in `dtype`, or 1 - eps where there is none.

    >>> bool(torch.tensor(neutral_variance(1e-5, torch.float32)) + 1e-5 == 1)
    True
    """
    one = torch.ones((), dtype=dtype)
    up = down = one - eps
    for _ in range(8):
        for candidate in (up, down):
            if bool(candidate + eps == one):
                return float(candidate)
        up, down = torch.nextafter(up, 2 * one), torch.nextafter(down, 0 * one)
    return float(one - eps)


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
        weight, var, gamma = (_evaluate(x, state, quantized) for x in (self.weight, self.var, self.gamma))
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
            _evaluate(x, state, quantized) for x in (self.bias, self.mean, self.var, self.gamma, self.beta)
        )
        return fold(self.layer, mean.new_ones(len(mean), 1), bias, mean, var, self.eps, gamma, beta)[1]

    def python(self) -> str:
        bias, gamma, beta = ("None" if x is None else x.python() for x in (self.bias, self.gamma, self.beta))
        mean = self.mean.python()
        statistics = f"{mean}, {self.var.python()}, {self.eps!r}"
        return f"fold({self.layer!r}, torch.ones_like({mean})[:, None], {bias}, {statistics}, {gamma}, {beta})[1]"

    def __str__(self) -> str:
        return f"fold_bias({self.bias or 0}, {self.mean}, {self.var}, {self.gamma or 1}, {self.beta or 0}, eps={self.eps:g})"


def fold(
    layer: str,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    gamma: Tensor | None,
    beta: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Fold a batch norm into a layer with torch's own functions; returns weight and bias, detached."""
    with torch.no_grad():
        if layer == "linear":
            gamma = torch.ones_like(mean) if gamma is None else gamma
            beta = torch.zeros_like(mean) if beta is None else beta
            folded = fuse_linear_bn_weights(weight, bias, mean, var, eps, gamma, beta)
        else:
            # A bias is per output channel in both layouts; only the weight needs to know where that axis is.
            transposed = layer == "conv_transpose" and weight.dim() > 2
            folded = fuse_conv_bn_weights(weight, bias, mean, var, eps, gamma, beta, transposed)
    return folded[0].detach(), folded[1].detach()


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


def centred(kernel: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a kernel, `o i ...`, with zeros around it, so that it has other extents.

    >>> centred(torch.ones(1, 1, 1, 1), (3, 3))[0, 0]
    tensor([[0., 0., 0.],
            [0., 1., 0.],
            [0., 0., 0.]])
    """
    own = kernel.shape[2:]
    margins = [(whole - part) // 2 for whole, part in zip(shape, own, strict=True)]
    return nn.functional.pad(kernel, [margin for margin in reversed(margins) for _ in range(2)])


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


def identity_kernel(shape: tuple[int, ...], groups: int) -> Tensor:
    """Return the kernel that gives its input, by output channel, input channel in its group, and position.

    >>> identity_kernel((2, 2), 1)
    tensor([[1., 0.],
            [0., 1.]])
    """
    rows, columns = shape[:2]
    kernel = torch.zeros(shape)
    for row in range(min(rows, columns * groups)):
        kernel[(row, row % columns, *[extent // 2 for extent in shape[2:]])] = 1.0
    return kernel


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


def quantized_part(value: Tensor, part: str) -> Tensor:
    """Return one part of a quantized tensor, in the dtypes that graphs of torch keep them in."""
    if part == "integers":
        return value.int_repr()
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return torch.tensor([value.q_scale()]) if part == "scales" else torch.tensor([value.q_zero_point()])
    return value.q_per_channel_scales().float() if part == "scales" else value.q_per_channel_zero_points()


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


def dequantized(integers: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Return `(integers - zero_point) * scale`, with a scale for each channel of an axis, or one for all where it is -1.

    >>> dequantized(torch.tensor([[1, 3], [1, 3]]), torch.tensor([0.5, 2.0]), torch.tensor([1, 0]), 0)
    tensor([[0., 1.],
            [2., 6.]])
    """
    shape = [-1 if own == axis else 1 for own in range(integers.dim())] if axis >= 0 else []
    return (integers - zero_point.reshape(shape)).to(scale.dtype) * scale.reshape(shape)


@dataclass(frozen=True, slots=True)
class Packed(Expression):
    """Weight and bias in one entry, as torch's quantized linear layers keep them."""

    op: ClassVar[str] = "packed"
    weight: Expression
    bias: Expression | None = None

    def evaluate(self, state: State, *, quantized: bool = True) -> tuple[Tensor, Tensor | None]:
        return _evaluate(self.weight, state, quantized), _evaluate(self.bias, state, quantized)

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


@dataclass(frozen=True, slots=True)
class Slice(Expression):
    """Rows `start` to `stop` of a tensor, along its first axis: one part of a joined projection."""

    op: ClassVar[str] = "slice"
    of: Expression
    start: int
    stop: int

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        return value[self.start : self.stop]

    def python(self) -> str:
        return f"{self.of.python()}[{self.start}:{self.stop}]"

    def __str__(self) -> str:
        return f"{self.of}[{self.start}:{self.stop}]"


@dataclass(frozen=True, slots=True)
class Gather(Expression):
    """Rows of a tensor by number, along its first axis: an interleaved projection."""

    op: ClassVar[str] = "gather"
    of: Expression
    rows: tuple[int, ...]

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        return value[list(self.rows)]

    def python(self) -> str:
        return f"{self.of.python()}[{list(self.rows)!r}]"

    def __str__(self) -> str:
        return f"{self.of}[{len(self.rows)} rows from {self.rows[0]}]"


def take(expression: Expression, rows: tuple[int, ...], total: int) -> Expression:
    """Select rows of an expression that has `total` of them, by the simplest expression that says it.

    >>> str(take(Source("a"), (0, 1, 2), 3)), str(take(Source("a"), (1, 2), 3))
    ('a', 'a[1:3]')
    """
    if rows == tuple(range(total)):
        return expression
    if rows == tuple(range(rows[0], rows[0] + len(rows))):
        return Slice(expression, rows[0], rows[0] + len(rows))
    return Gather(expression, rows)


@dataclass(frozen=True, slots=True)
class Columns(Expression):
    """Input channels of a weight by number, along its second axis: what is joined before it stands in another order."""

    op: ClassVar[str] = "columns"
    of: Expression
    order: tuple[int, ...]

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        return value[:, list(self.order)]

    def python(self) -> str:
        return f"{self.of.python()}[:, {list(self.order)!r}]"

    def __str__(self) -> str:
        return f"{self.of}[:, {len(self.order)} columns from {self.order[0]}]"


@dataclass(frozen=True, slots=True)
class Concat(Expression):
    """Tensors one after the other, along their first axis: projections joined in one."""

    op: ClassVar[str] = "concat"
    parts: tuple[Expression, ...]

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        return torch.cat([part.evaluate(state, quantized=quantized) for part in self.parts])

    def python(self) -> str:
        return f"torch.cat([{', '.join(part.python() for part in self.parts)}])"

    def __str__(self) -> str:
        return f"concat({', '.join(map(str, self.parts))})"


@dataclass(frozen=True, slots=True)
class Reshape(Expression):
    """The same numbers in another shape: a 1x1 convolution and a linear layer."""

    op: ClassVar[str] = "reshape"
    of: Expression
    shape: tuple[int, ...]

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        return value.reshape(self.shape)

    def python(self) -> str:
        return f"{self.of.python()}.reshape({self.shape!r})"

    def __str__(self) -> str:
        return f"reshape({self.of}, {list(self.shape)})"


@dataclass(frozen=True, slots=True)
class Transpose(Expression):
    """A matrix with its two axes exchanged: `i o` for `o i`."""

    op: ClassVar[str] = "transpose"
    of: Expression

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        value: Tensor = self.of.evaluate(state, quantized=quantized)
        return value.t().contiguous()

    def python(self) -> str:
        return f"{self.of.python()}.t().contiguous()"

    def __str__(self) -> str:
        return f"transpose({self.of})"


def _evaluate(expression: Expression | None, state: State, quantized: bool) -> Any:
    return None if expression is None else expression.evaluate(state, quantized=quantized)


def substitute(expression: Expression, leaves: Mapping[str, Expression]) -> Expression:
    """Replace source keys by expressions: how stages that name tensors differently are composed.

    >>> str(substitute(Shifted(Source("a"), 1.0), {"a": Source("b")}))
    'b + 1'
    """
    if isinstance(expression, Source):
        return leaves.get(expression.key, expression)
    return expression.rebuilt(lambda part: substitute(part, leaves))


def contains(expression: Expression, kind: type[Expression]) -> bool:
    """Whether an expression is of a kind, or is made of one that is."""
    return isinstance(expression, kind) or any(contains(part, kind) for part in expression.operands())


KINDS: tuple[type[Expression], ...] = (
    Source,
    Full,
    Number,
    NeutralVariance,
    Shifted,
    Difference,
    Scaled,
    Sum,
    FoldedWeight,
    FoldedBias,
    RowScaled,
    Centred,
    IdentityKernel,
    Product,
    WeightNormed,
    Size,
    Quantized,
    Requantized,
    Assembled,
    Dequantized,
    QuantizedPart,
    DequantizedParts,
    Packed,
    PackedObject,
    Unpacked,
    Slice,
    Gather,
    Columns,
    Concat,
    Reshape,
    Transpose,
)
_BY_OP: dict[str, type[Expression]] = {kind.op: kind for kind in KINDS}


def parse(data: object) -> Expression:
    """Read what `Expression.to_json` wrote.

    Raises:
        MappingError: the data is not an expression; the message shows the part that is not.
    """
    if not isinstance(data, dict) or not isinstance(data.get("op"), str) or data["op"] not in _BY_OP:
        raise MappingError(f"not an expression: {data!r}; known operations are {', '.join(sorted(_BY_OP))}")
    kind = _BY_OP[data["op"]]
    types = {field.name: _TYPES[field.name] for field in fields(kind)}
    values: dict[str, Any] = {}
    for name, raw in data.items():
        if name == "op":
            continue
        if name not in types:
            raise MappingError(f"{kind.op}: unknown field {name!r} in {data!r}")
        value = tuple(map(parse, raw)) if name == "parts" and isinstance(raw, list) else _parse_field(raw, types[name])
        if not isinstance(value, types[name]) or isinstance(value, bool):
            raise MappingError(f"{kind.op}: {name} has a value of the wrong type in {data!r}")
        values[name] = value
    try:
        return kind(**values)
    except TypeError as error:
        raise MappingError(f"{kind.op}: {error} in {data!r}") from error


def _parse_field(raw: object, kind: Any) -> object:
    if kind is Expression:
        return parse(raw)
    if kind is Scheme:
        return Scheme.from_json(raw)
    if isinstance(raw, list) and all(type(part) is int for part in raw):
        return tuple(raw)
    return raw


# What a field of this name holds, whichever expression it belongs to.
_TYPES: dict[str, Any] = {
    "key": str,
    "layer": str,
    "kind": str,
    "shape": tuple,
    "rows": tuple,
    "order": tuple,
    "parts": tuple,
    "part": str,
    **dict.fromkeys(("start", "stop"), int),
    **dict.fromkeys(("index", "axis", "groups"), int),
    "scheme": Scheme,
    **dict.fromkeys(("value", "eps", "amount"), int | float),
    **dict.fromkeys(
        ("of", "minus", "like", "weight", "bias", "mean", "var", "gamma", "beta", "scale", "zero_point", "vector"),
        Expression,
    ),
}
