"""Expressions that move numbers and compute none: rows, columns, joins, other shapes.

>>> import torch
>>> from fxmap.expressions.base import Source
>>> state = {"qkv": torch.arange(6).reshape(6, 1)}
>>> Transpose(Slice(Source("qkv"), 2, 4)).evaluate(state)
tensor([[2, 3]])
>>> Transpose(Slice(Source("qkv"), 2, 4)).python()
"transpose(state['qkv'][2:4])"
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from fxmap.errors import MappingError
from fxmap.expressions import functions
from fxmap.expressions.base import Expression
from fxmap.expressions.call import Call, Function

# A table that is larger than this has at most 1000 times the rows that the source has of it.
_TABLE = 2**26


@dataclass(frozen=True, slots=True)
class Slice(Call):
    """Rows `start` to `stop` of a tensor, along its first axis: one part of a joined projection."""

    op: ClassVar[str] = "slice"
    shown: ClassVar[str] = "{of}[{start}:{stop}]"
    of: Expression
    start: int
    stop: int

    def call(self, *, quantized: bool = True) -> tuple[Function, tuple[Any, ...]]:
        return operator.getitem, (self.of, slice(self.start, self.stop))

    def execute(self, function: Function, arguments: list[Any]) -> Any:
        self.refuse_fewer(tuple(arguments[0].shape))
        return function(*arguments)

    def refuse_fewer(self, shape: Sequence[int]) -> None:
        """Raise an error where a tensor does not have these rows: torch would give those that there are.

        Raises:
            MappingError: with the shape and the rows.
        """
        if not shape or self.stop > shape[0]:
            raise MappingError(
                f"{self.of} is {list(shape)} in the source, and has no rows {self.start} to {self.stop}. The mapping is of "
                "another checkpoint: make it anew with fxmap.auto_map"
            )


@dataclass(frozen=True, slots=True)
class Gather(Call):
    """Rows of a tensor by number, along its first axis: an interleaved projection."""

    op: ClassVar[str] = "gather"
    of: Expression
    rows: tuple[int, ...]

    def call(self, *, quantized: bool = True) -> tuple[Function, tuple[Any, ...]]:
        return operator.getitem, (self.of, list(self.rows))

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
class Placed(Call):
    """Some rows of a table, of which the source holds no others: a table of positions, cut to the length of an example.

    Evaluated by itself, the other rows are 0. A destination that is filled keeps its own there, if it is asked to keep what
    has no source.

    >>> import torch
    >>> from fxmap.expressions.base import Source
    >>> print(Placed(Source("cut"), (0, 1), 3))
    cut as rows 0:2 of 3
    >>> Placed(Source("cut"), (0, 1), 3).evaluate({"cut": torch.ones(2, 1)}).flatten()
    tensor([1., 1., 0.])
    """

    op: ClassVar[str] = "placed"
    of: Expression
    rows: tuple[int, ...]
    total: int

    def call(self, *, quantized: bool = True) -> tuple[Function, tuple[Any, ...]]:
        return functions.placed, (self.of, list(self.rows), self.total)

    def execute(self, function: Function, arguments: list[Any]) -> Any:
        value = arguments[0]
        fits = value.dim() and len(value) == len(self.rows) == len(set(self.rows))
        if not fits or not 0 <= min(self.rows) <= max(self.rows) < self.total:
            raise MappingError(f"{self.of} is {list(value.shape)}: not the rows {self.present} of {self.total}")
        if self.total * prod(value.shape[1:]) > max(_TABLE, 1000 * value.numel()):
            raise MappingError(f"a table of {self.total} rows, of which the source has {len(value)}")
        return function(*arguments)

    @property
    def present(self) -> str:
        """The rows that the source has, as `0:9, 17:25`."""
        return _ranges(sorted(self.rows))

    @property
    def absent(self) -> str:
        """The rows that the source does not have, as `9:17, 25:32`."""
        held = set(self.rows)
        return _ranges([row for row in range(self.total) if row not in held])

    def filled(self, made: Tensor, own: Tensor) -> Tensor:
        """Return a made tensor with a destination's own rows where the source has none."""
        if own.is_meta or made.shape != own.shape:
            return made
        rows = list(self.rows)
        full = own.detach().to(made, copy=True)
        full[rows] = made[rows]
        return full

    def __str__(self) -> str:
        return f"{self.of} as rows {self.present} of {self.total}"


def _ranges(rows: Sequence[int]) -> str:
    """Return rows in rising order as ranges.

    >>> _ranges([0, 1, 2, 5])
    '0:3, 5:6'
    """
    starts = [row for row, before in zip(rows, [None, *rows], strict=False) if before is None or row != before + 1]
    ends = [row + 1 for row, behind in zip(rows, [*rows[1:], None], strict=True) if behind != row + 1]
    return ", ".join(f"{start}:{end}" for start, end in zip(starts, ends, strict=True))


@dataclass(frozen=True, slots=True)
class Columns(Call):
    """Input channels of a weight by number, along its second axis: the layer reads a concatenation in another order."""

    op: ClassVar[str] = "columns"
    of: Expression
    order: tuple[int, ...]

    def call(self, *, quantized: bool = True) -> tuple[Function, tuple[Any, ...]]:
        return operator.getitem, (self.of, (slice(None), list(self.order)))

    def __str__(self) -> str:
        return f"{self.of}[:, {len(self.order)} columns from {self.order[0]}]"


@dataclass(frozen=True, slots=True)
class Concat(Call):
    """Tensors one after the other, along their first axis: projections joined in one."""

    op: ClassVar[str] = "concat"
    function: ClassVar[Function] = torch.cat
    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return f"concat({', '.join(map(str, self.parts))})"


@dataclass(frozen=True, slots=True)
class Reshape(Call):
    """The same numbers in another shape: a 1x1 convolution and a linear layer."""

    op: ClassVar[str] = "reshape"
    function: ClassVar[Function] = torch.reshape
    shown: ClassVar[str] = "reshape({of}, {shape})"
    of: Expression
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transpose(Call):
    """A matrix with its two axes exchanged: `i o` for `o i`."""

    op: ClassVar[str] = "transpose"
    function: ClassVar[Function] = functions.transpose
    shown: ClassVar[str] = "transpose({of})"
    of: Expression


@dataclass(frozen=True, slots=True)
class Permute(Call):
    """A tensor with its axes in another order, as a tensor of its own: `h w i o` for `o i h w`.

    >>> import torch
    >>> from fxmap.expressions.base import Source
    >>> Permute(Source("kernel"), (3, 2, 0, 1)).evaluate({"kernel": torch.zeros(5, 7, 2, 3)}).shape
    torch.Size([3, 2, 5, 7])
    """

    op: ClassVar[str] = "permute"
    function: ClassVar[Function] = functions.permute
    shown: ClassVar[str] = "permute({of}, {axes})"
    of: Expression
    axes: tuple[int, ...]
