"""Expressions as JSON, and back."""

from dataclasses import fields
from typing import Any

from fxmap.errors import MappingError
from fxmap.expressions.arithmetic import (
    Centred,
    Difference,
    FoldedBias,
    FoldedWeight,
    Full,
    IdentityKernel,
    NeutralVariance,
    Number,
    Product,
    RowScaled,
    Scaled,
    Shifted,
    Size,
    Sum,
    WeightNormed,
)
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Columns, Concat, Gather, Reshape, Slice, Transpose
from fxmap.expressions.quantized import (
    Assembled,
    Dequantized,
    DequantizedParts,
    Packed,
    PackedObject,
    Quantized,
    QuantizedPart,
    Requantized,
    Unpacked,
)
from fxmap.expressions.scheme import Scheme

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
