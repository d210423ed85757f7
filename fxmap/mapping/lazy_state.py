"""Lazy state: a mapping's destination state dict, of which a tensor is made when it is asked for.

>>> from fxmap.expressions.layout import Slice
>>> from fxmap.expressions.base import Source
>>> state = LazyState({"q.weight": Slice(Source("qkv.weight"), 0, 2)}, {"qkv.weight": torch.arange(12).reshape(6, 2)})
>>> state.shape("q.weight"), state["q.weight"]
((2, 2), tensor([[0, 1],
        [2, 3]]))
>>> state.part("q.weight", ((1, 2), (0, 2)))
tensor([[2, 3]])
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.errors import FxmapError
from fxmap.expressions import arithmetic, base, layout, stored
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.functions import is_wrapped
from fxmap.expressions.layout import Placed
from fxmap.expressions.regions import Region, cut, evaluate_region, whole
from fxmap.expressions.values import errors_named, evaluated
from fxmap.files.lazy import LazyTensor, materialise
from fxmap.mapping.applying import evaluate, sources_of, with_own_rows
from fxmap.model.wrappers import match_prefix

_MOVING = {base.__name__, layout.__name__}
_PLAIN = {module.__name__ for module in (arithmetic, base, layout, stored)}


class LazyState(Mapping[str, Any]):
    """A state dict whose values are evaluated anew whenever they are asked for; nothing is kept.

    Args:
        expressions: by destination key.
        state: the source's values; lazy tensors stay in their file until an expression reads them.
    """

    def __init__(self, expressions: Mapping[str, Expression], state: Mapping[str, Any]) -> None:
        self._expressions, self._state = dict(expressions), state

    def __getitem__(self, key: str) -> Any:
        return materialise(self.moved(key))

    def __iter__(self) -> Iterator[str]:
        return iter(self._expressions)

    def __len__(self) -> int:
        return len(self._expressions)

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a value; it is not read for that where its expression allows it."""
        return tuple(self.described(key).shape)

    def dtype(self, key: str) -> torch.dtype:
        """Return the dtype of a value, as `shape`."""
        return self.described(key).dtype

    def part(self, key: str, region: Region) -> Tensor:
        """Make a region of a tensor: for each axis the first index, and the one behind the last.

        It is equal to that region of the whole; only what it needs is read, where the expression allows that.
        """
        expression = self._expressions[key]
        value = evaluate_region(expression, self._state, region) if is_plain(expression, self._state) else None
        made: Tensor = materialise(cut(self[key], region) if value is None else value)
        return made

    def described(self, key: str) -> Tensor:
        """Return a tensor of the shape and dtype of a value, without its numbers where that is possible."""
        found = description(self._expressions[key], self._state)
        value: Tensor = self[key] if found is None else found
        return value

    def moved(self, key: str) -> Any:
        """Return a value that is still lazy where it is a tensor of the source, or rows of one; any other is made."""
        expression = self._expressions[key]
        if _is_made_of(expression, _MOVING) and is_plain(expression, self._state):
            with errors_named(key, expression):
                return expression.evaluate(self._state)  # numbers are not computed, and need not be looked at
        return evaluated(key, expression, self._state)

    def lazy(self, key: str) -> Any:
        """Return a value as a lazy tensor, or, where its shape is not known beforehand, evaluated."""
        found = description(self._expressions[key], self._state)
        if found is None:
            return self[key]
        if isinstance(source := self._expressions[key], Source):
            return self._state[source.key]
        return LazyTensor(found.shape, found.dtype, lambda region: self._region(key, region))

    def _region(self, key: str, region: Region) -> Tensor:
        shape = self.shape(key)
        made: Tensor = self[key] if region == whole(shape) else self.part(key, region)
        return made


def description(expression: Expression, state: Mapping[str, Any]) -> Tensor | None:
    """Return a tensor of the meta device, of an expression's shape and dtype; None where numbers are needed to know them."""
    if not is_plain(expression, state):
        return None
    try:
        values = ((key, state[key]) for key in expression.sources())
        made = expression.evaluate({key: torch.empty(v.shape, dtype=v.dtype, device="meta") for key, v in values})
    except (FxmapError, RuntimeError, NotImplementedError, ValueError, TypeError, IndexError):
        return None  # evaluated, it gives the result, or the error that counts
    return made if isinstance(made, Tensor) and made.is_meta else None


def is_plain(expression: Expression, state: Mapping[str, Any]) -> bool:
    """Whether an expression makes a plain tensor of plain ones that are there, and quantizes nothing."""
    return all(is_plain_tensor(state.get(key)) for key in expression.sources()) and _is_made_of(expression, _PLAIN)


def is_plain_tensor(value: object) -> bool:
    """Whether a value is a strided tensor that is not quantized, in memory or lazy."""
    return (
        isinstance(value, Tensor)
        and not is_wrapped(value)
        and not value.is_quantized
        and value.layout == torch.strided
        and not value.is_meta
    )


def lazily(
    expressions: Mapping[str, Expression], state_dict: Mapping[str, Any], own: Mapping[str, Any]
) -> "OrderedDict[str, Any]":
    """Return a destination's full state dict, lazily where that is possible: the mapped keys, and its own values else.

    Expressions over tensors of the destination itself are evaluated, since these change while it is written.

    Raises:
        MappingError: the state dict lacks a source key.
    """
    if not all(is_plain_tensor(value) or _is_plain_meta(value) for value in own.values()):
        return evaluate(expressions, state_dict, own)
    state, _ = match_prefix(state_dict, sources_of(expressions))
    made, places = LazyState(expressions, state), {storage_of(value) for value in own.values()} - {None}
    full = OrderedDict(own)
    for key, expression in expressions.items():
        shared = any(storage_of(state.get(source)) in places for source in expression.sources())
        known = shared or isinstance(expression, Placed)
        value = evaluated(key, expression, state) if known else made.lazy(key)
        full[key] = with_own_rows(value, expression, own.get(key)) if known else value
    if hasattr(own, "_metadata"):
        full._metadata = own._metadata  # type: ignore[attr-defined]
    return full


def storage_of(value: object) -> int | None:
    """Return where the memory of a plain tensor begins; None for a lazy one, and for other values."""
    if not isinstance(value, Tensor) or isinstance(value, LazyTensor) or not is_plain_tensor(value):
        return None
    return value.untyped_storage().data_ptr() or None


def _is_plain_meta(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_meta and type(value) in (Tensor, nn.Parameter)


def _is_made_of(expression: Expression, modules: Collection[str]) -> bool:
    """Whether all kinds of expressions in a tree are defined in some modules."""
    return type(expression).__module__ in modules and all(_is_made_of(part, modules) for part in expression.operands())
