"""Expressions: how one destination tensor is made from source tensors.

An expression is an immutable tree whose leaves are source keys. It can be evaluated on a state dict, printed,
written as JSON, and written as Python. No expression holds values of a model, so a mapping is small and can be reused.

>>> import torch
>>> from fxmap.expressions.arithmetic import FoldedBias
>>> from fxmap.expressions.serial import parse
>>> expression = FoldedBias("conv", Source("bn.running_mean"), Source("bn.running_var"), 1e-5,
...                         gamma=Source("bn.weight"), beta=Source("bn.bias"))
>>> state = {"bn.running_mean": torch.ones(2), "bn.running_var": torch.ones(2), "bn.weight": torch.ones(2),
...          "bn.bias": torch.ones(2)}
>>> expression.evaluate(state).shape
torch.Size([2])
>>> parse(expression.to_json()) == expression
True
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, ClassVar

from fxmap.errors import MappingError
from fxmap.expressions.scheme import Scheme

State = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Expression(ABC):
    """A tree over source keys. `evaluate` never changes the tensors that it reads."""

    op: ClassVar[str]

    @abstractmethod
    def evaluate(self, state: State, *, quantized: bool = True) -> Any:
        """Make the tensor from a source state dict.

        With `quantized=False`, quantizing and dequantizing are left out: the result is the float function of the
        mapping, which a proof compares.

        Raises:
            MappingError: a source key is absent; the message names it.
        """

    @abstractmethod
    def python(self) -> str:
        """Write the expression as Python over a dict named `state`."""

    def rebuilt(self, change: Callable[["Expression"], "Expression"]) -> "Expression":
        """Return a copy whose operands are replaced by `change(operand)`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            if isinstance(value, Expression):
                values[name] = change(value)
            elif name == "parts":
                values[name] = tuple(map(change, value))
        return type(self)(**values)

    def operands(self) -> Iterator["Expression"]:
        """Yield the direct operands of the expression."""
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
        """Return plain dicts, lists, strings and numbers; infinities and NaN, which JSON does not have, are strings."""
        return {"op": self.op} | {
            field.name: _plain(value) for field in fields(self) if (value := getattr(self, field.name)) is not None
        }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.to_json() if isinstance(value, Expression | Scheme) else value


@dataclass(frozen=True, slots=True)
class Source(Expression):
    """A source tensor as it is. On its own it is a rename."""

    op: ClassVar[str] = "source"
    key: str

    def evaluate(self, state: State, *, quantized: bool = True) -> Any:
        if self.key not in state:
            close = get_close_matches(self.key, [key for key in state if isinstance(key, str)], n=1)
            hint = f"; the closest is {close[0]}" if close else ""
            raise MappingError(f"{self.key}: not in the source state dict, which has {len(state)} keys{hint}")
        return state[self.key]

    def sources(self) -> Iterator[str]:
        yield self.key

    def python(self) -> str:
        return f"state[{self.key!r}]"

    def __str__(self) -> str:
        return self.key


def substitute(expression: Expression, leaves: Mapping[str, Expression]) -> Expression:
    """Replace source keys by expressions: how stages that name tensors differently are composed.

    >>> from fxmap.expressions.arithmetic import Shifted
    >>> str(substitute(Shifted(Source("a"), 1.0), {"a": Source("b")}))
    'b + 1'
    """
    if isinstance(expression, Source):
        return leaves.get(expression.key, expression)
    return expression.rebuilt(lambda part: substitute(part, leaves))


def contains(expression: Expression, kind: type[Expression]) -> bool:
    """Whether an expression, or any operand in its tree, is of a kind."""
    return isinstance(expression, kind) or any(contains(part, kind) for part in expression.operands())
