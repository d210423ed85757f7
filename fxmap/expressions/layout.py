"""Expressions that move numbers and compute none: rows, columns, joins, other shapes."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fxmap.expressions.base import Expression, State


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

    >>> from fxmap.expressions.base import Source
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
