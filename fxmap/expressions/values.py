"""Values: what an expression makes of a checkpoint, refused where it is no longer what the checkpoint says.

A mapping is proven with numbers for which its arithmetic is exact enough; those of a file may be others. A negative
variance, folded, is NaN; a weight scaled beyond the range of its dtype is infinite; an observer that sees NaN makes a scale
of NaN. All of them would be written without a word.

>>> from fxmap.expressions.arithmetic import FoldedWeight
>>> from fxmap.expressions.base import Source
>>> folded = FoldedWeight("linear", Source("weight"), Source("var"), 1e-5)
>>> evaluated("fc.weight", folded, {"weight": torch.ones(2, 1), "var": torch.tensor([1.0, -1.0])})
Traceback (most recent call last):
...
fxmap.errors.MappingError: fc.weight = fold(weight, 1, var, eps=1e-05): 1 of 2 values are NaN or infinite, and those ...
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import FxmapError, MappingError, ProofWarning, shorten
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.functions import is_wrapped
from fxmap.expressions.packing import is_object, unpack
from fxmap.expressions.qparams import check_quantized

# What torch raises for operands that do not fit.
FAULTS = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    ArithmeticError,
    MemoryError,
)

# Constants may have this many elements, or so many times those of the source tensor beside them.
_CONSTANT, _TIMES = 2**26, 1000


def evaluated(key: str, expression: Expression, state: Mapping[str, Any], *, quantized: bool = True) -> Any:
    """Evaluate the expression of a destination key on a checkpoint.

    Raises:
        MappingError: a source key is absent, operands do not fit, or finite values become NaN or infinite; the message names
            the destination key.
        QuantizationError: as `Expression.evaluate`.

    Warns:
        ProofWarning: values are not finite, and neither are those of the source; with the key and their number.

    Cost: that of the expression, and one look at every value that is computed; renames are not looked at.
    """
    with errors_named(key, expression):
        _refuse_huge_constants(expression, state)
        value = expression.evaluate(state, quantized=quantized)
        if not isinstance(expression, Source):
            _refuse_spoiled(expression, value, state)
    _warn_of_spoiled(key, expression, value, state)
    return value


@contextmanager
def errors_named(key: str, expression: Expression) -> Iterator[None]:
    """Raise what evaluating an expression raises as a MappingError that names its destination key.

    >>> with errors_named("fc.weight", Source("fc")):
    ...     [][0]
    Traceback (most recent call last):
        ...
    fxmap.errors.MappingError: fc.weight = fc: cannot be computed: IndexError: list index out of range
    """
    try:
        yield
    except MappingError as error:
        raise MappingError(f"{key} = {expression}: {error}") from error
    except FxmapError:
        raise
    except FAULTS as error:
        raise MappingError(f"{key} = {expression}: cannot be computed: {type(error).__name__}: {error}") from error


def _refuse_huge_constants(expression: Expression, state: Mapping[str, Any]) -> None:
    for part in _tree(expression):
        shape = getattr(part, "shape", None)
        if not isinstance(shape, tuple):
            continue
        sizes = [_elements(state.get(source)) for source in part.sources()]
        if math.prod(shape) > max(_CONSTANT, _TIMES * max(sizes, default=0)):
            raise MappingError(f"a constant of {list(shape)}, beside a source of {max(sizes, default=0)} elements")


def _tree(expression: Expression) -> Iterator[Expression]:
    yield expression
    for part in expression.operands():
        yield from _tree(part)


def _elements(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else 0


def _refuse_spoiled(expression: Expression, value: Any, state: Mapping[str, Any]) -> None:
    for part in _tensors(value):
        if part.is_quantized:
            try:
                check_quantized(part)
            except ValueError as error:
                raise MappingError(f"{error}{_blame(expression, state)}") from error
        elif (count := spoiled(part)) and not _sources_with(expression, state) and not _has_infinity(expression):
            raise MappingError(
                f"{count} of {part.numel()} values are NaN or infinite, and those of the source are finite"
                f"{_blame(expression, state)}. Mend the source's values first"
            )


# Whether the caller has said which tensors of the source hold NaN or infinity.
_SAID: ContextVar[bool] = ContextVar("fxmap_spoiled_said", default=False)


@contextmanager
def said_before() -> Iterator[None]:
    """Do not warn, inside a `with` block, of values that are spoiled since those are of which they are made."""
    before = _SAID.set(True)
    try:
        yield
    finally:
        _SAID.reset(before)


def _warn_of_spoiled(key: str, expression: Expression, value: Any, state: Mapping[str, Any]) -> None:
    if isinstance(expression, Source) or _SAID.get():
        return
    count = sum(spoiled(part) for part in _tensors(value))
    if count and (causes := _sources_with(expression, state)):
        text = f"{key}: {count} values are NaN or infinite, as are values of {shorten(causes)} of which they are made"
        warnings.warn(text, ProofWarning, stacklevel=2)


def spoiled(value: Any) -> int:
    """Count the values of a tensor that are NaN or infinite; 0 where there are no values, or no plain ones.

    >>> spoiled(torch.tensor([1.0, float("nan"), -float("inf")])), spoiled(torch.tensor([1])), spoiled("text")
    (2, 0, 0)
    """
    if not isinstance(value, Tensor) or value.is_meta or value.is_quantized or is_wrapped(value):
        return 0
    if not (value.is_floating_point() or value.is_complex()) or value.layout != torch.strided:
        return 0
    wide = value.float() if value.element_size() == 1 else value  # of numbers in 8 bits torch asks nothing
    return wide.numel() - int(torch.isfinite(wide).sum())


def _tensors(value: Any) -> Iterator[Tensor]:
    parts = unpack(value) if isinstance(value, tuple) or is_object(value) else (value,)
    yield from (part for part in parts if isinstance(part, Tensor) and not part.is_meta)


def _sources_with(expression: Expression, state: Mapping[str, Any]) -> list[str]:
    return [source for source in dict.fromkeys(expression.sources()) if spoiled(state.get(source))]


def _has_infinity(expression: Expression) -> bool:
    """Whether an expression has a constant that is not finite, as what a mask is filled with."""
    constants = (getattr(part, name, 0.0) for part in _tree(expression) for name in ("value", "amount"))
    return any(isinstance(constant, float) and not math.isfinite(constant) for constant in constants)


def _blame(expression: Expression, state: Mapping[str, Any]) -> str:
    """Name the variances below 0 among the sources, which are what makes NaN most often."""
    names = {part.key for tree in _tree(expression) if isinstance(part := getattr(tree, "var", None), Source)}
    low = [f"{name} has {count} below 0" for name in names if (count := below_zero(state.get(name)))]
    return f" ({shorten(sorted(low))})" if low else ""


def below_zero(value: Any) -> int:
    """Count the values of a tensor that are below zero; 0 where there are no values, or no floating-point ones.

    >>> below_zero(torch.tensor([1.0, -1.0])), below_zero("text")
    (1, 0)
    """
    plain = isinstance(value, Tensor) and value.is_floating_point() and not value.is_meta
    # torch compares no numbers of one byte.
    return int(((value.float() if value.element_size() == 1 else value) < 0).sum()) if plain else 0
