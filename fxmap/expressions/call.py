"""Expressions that call one function on their operands: evaluated by calling it, and written as Python by naming it.

Because both come from the same function and the same arguments, `KeyMapping.apply` and the module that
`KeyMapping.to_python` writes cannot differ. A new expression is its fields, the function, and how it is shown.

>>> import operator
>>> from fxmap.expressions.base import Source
>>> @dataclass(frozen=True, slots=True)
... class Halved(Call):
...     function = operator.mul
...     shown = "{of} / 2"
...     of: Expression
...     amount: float = 0.5
>>> halved = Halved(Source("a"))
>>> str(halved), halved.python(), halved.evaluate({"a": 3.0})
('a / 2', "(state['a'] * 0.5)", 1.5)
"""

import math
import operator
from abc import ABC
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch

from fxmap.expressions.base import Expression, State

Function = Callable[..., Any]

_INFIX: dict[Function, str] = {operator.add: "+", operator.sub: "-", operator.mul: "*", operator.matmul: "@"}


@dataclass(frozen=True, slots=True)
class Call(Expression, ABC):
    """One function, called on the fields in their order; a subclass that calls it otherwise overrides `call`.

    `function` is one of `operator`, of torch, or of the modules here that need torch alone
    (`functions`, `packing`, `decoding`).
    `shown` is how the expression is printed: a format string of its fields.
    """

    function: ClassVar[Function]
    shown: ClassVar[str] = ""

    def call(self, *, quantized: bool = True) -> tuple[Function, tuple[Any, ...]]:
        """Return the function and its arguments; `quantized` as in `evaluate`.

        Arguments are expressions, tuples of expressions, which are passed on as lists, and values as they are.
        """
        return type(self).function, tuple(getattr(self, field.name) for field in fields(self))

    def evaluate(self, state: State, *, quantized: bool = True) -> Any:
        function, arguments = self.call(quantized=quantized)
        return self.execute(function, [_each(a, lambda part: part.evaluate(state, quantized=quantized)) for a in arguments])

    def execute(self, function: Function, arguments: list[Any]) -> Any:
        """Call the function; a subclass overrides this to turn torch's errors into fxmap's."""
        return function(*arguments)

    def python(self) -> str:
        function, arguments = self.call()
        written = [_written(argument) for argument in arguments]
        if function is operator.getitem:
            return f"{written[0]}[{_index(arguments[1])}]"
        if function in _INFIX:
            return f"({f' {_INFIX[function]} '.join(written)})"
        prefix = "torch." if getattr(torch, function.__name__, None) is function else ""
        return f"{prefix}{function.__name__}({', '.join(written)})"

    def __str__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return self.shown.format(**{name: list(v) if isinstance(v, tuple) else v for name, v in values.items()})


def functions_of(expression: Expression) -> Iterator[Function]:
    """Yield the functions that an expression calls, its operands' included."""
    if isinstance(expression, Call):
        yield expression.call()[0]
    for operand in expression.operands():
        yield from functions_of(operand)


def _each(argument: Any, change: Callable[[Expression], Any]) -> Any:
    if isinstance(argument, Expression):
        return change(argument)
    if isinstance(argument, tuple) and argument and isinstance(argument[0], Expression):
        return [change(part) for part in argument]
    return argument


def _written(argument: Any) -> str:
    return repr(_finite(_each(argument, lambda part: _Code(part.python()))))


def _finite(argument: Any) -> Any:
    """Replace infinities and NaN, also within containers, by code that makes them: their repr is no Python."""
    if isinstance(argument, float) and not math.isfinite(argument):
        return _Code(f"float({str(argument)!r})")
    if isinstance(argument, list | tuple):
        return type(argument)(map(_finite, argument))
    return {name: _finite(value) for name, value in argument.items()} if isinstance(argument, dict) else argument


def _index(index: Any) -> str:
    if isinstance(index, tuple):
        return ", ".join(map(_index, index))
    if isinstance(index, slice):
        return ":".join("" if bound is None else str(bound) for bound in (index.start, index.stop))
    return repr(index)


class _Code(str):
    """Text that is Python already: its `repr` is itself, also within a list."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
