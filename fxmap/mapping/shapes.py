"""Shapes: of the source tensors of which a mapping takes rows or columns by number, so that other sizes are refused.

A tensor of another size that is renamed, or joined, shows it by the destination's shapes. One of which rows are taken does
not: those that are left out leave no trace.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fxmap.errors import MappingError
from fxmap.expressions.base import Expression, Source, contains
from fxmap.expressions.layout import Columns, Gather, Placed, Slice
from fxmap.mapping.findings import Findings

_TAKING = (Slice, Gather, Columns, Placed)


def shapes_taken(expressions: Mapping[str, Expression], findings: Findings) -> dict[str, tuple[int, ...]]:
    """Return the shapes that source tensors had when the mapping was made, where parts of them are taken by number."""
    taken = {
        source
        for expression in expressions.values()
        if any(contains(expression, kind) for kind in _TAKING)
        for source in expression.sources()
    }
    return {key: shape for key, shape in findings.src_shapes.items() if key in taken}


def rows_taken(expressions: Mapping[str, Expression]) -> dict[str, int]:
    """Return how many rows source tensors must have for the slices that are taken of them.

    >>> rows_taken({"q": Slice(Source("qkv"), 0, 2), "k": Slice(Source("qkv"), 2, 4), "w": Source("w")})
    {'qkv': 4}
    """
    found: dict[str, int] = {}
    waiting = list(expressions.values())
    while waiting:
        part = waiting.pop()
        if isinstance(part, Slice) and isinstance(part.of, Source):
            found[part.of.key] = max(part.stop, found.get(part.of.key, 0))
        waiting += part.operands()
    return found


def refuse_other_shapes(expressions: Mapping[str, Expression], findings: Findings, state: Mapping[str, Any]) -> None:
    """Refuse a state dict with tensors of other shapes than those that the mapping takes rows or columns of.

    Raises:
        MappingError: with the key and both shapes.
    """
    for key, shape in shapes_taken(expressions, findings).items():
        value = state.get(key)
        if isinstance(value, Tensor) and tuple(value.shape) != shape:
            raise MappingError(
                f"{key}: {list(value.shape)} in the source, and the mapping takes parts of a tensor of {list(shape)}: this "
                "is another model's mapping. Nothing was written; make it anew with fxmap.auto_map"
            )
