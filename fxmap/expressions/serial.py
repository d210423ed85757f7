"""Expressions as JSON, and back: the fields of each kind, read by their own annotations.

>>> parse({"op": "slice", "of": {"op": "source", "key": "qkv.weight"}, "start": 0, "stop": 64})
Slice(of=Source(key='qkv.weight'), start=0, stop=64)
"""

from dataclasses import fields
from functools import cache
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

from fxmap.errors import MappingError
from fxmap.expressions import arithmetic, base, computed, layout, quantized, stored
from fxmap.expressions.base import Expression
from fxmap.expressions.scheme import Scheme

# Floats that JSON does not have, as `to_json` writes them.
_NOT_IN_JSON = ("inf", "-inf", "nan")


# Fields that name what a tensor is made of; a program may need no operands.
_NEVER_EMPTY = ("parts", "rows", "order")


# Integers from here on are no int64, which is what torch takes.
_NO_INTEGER = 2**63


def _kinds(module: ModuleType) -> dict[str, type[Expression]]:
    """Return the expressions that a module defines, by the name that JSON gives them."""
    own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    return {kind.op: kind for kind in own if issubclass(kind, Expression) and hasattr(kind, "op")}


KINDS = {
    op: kind for module in (base, arithmetic, quantized, layout, stored, computed) for op, kind in _kinds(module).items()
}


def parse(data: object) -> Expression:
    """Parse an expression from the JSON data that `Expression.to_json` returns.

    Raises:
        MappingError: the data is not an expression; the message shows the part that is not.
    """
    if not isinstance(data, dict) or not isinstance(data.get("op"), str) or data["op"] not in KINDS:
        raise MappingError(f"not an expression: {data!r}; known operations are {', '.join(sorted(KINDS))}")
    kind = KINDS[data["op"]]
    types = _field_types(kind)
    values: dict[str, Any] = {}
    for name, raw in data.items():
        if name == "op":
            continue
        if name not in types:
            raise MappingError(f"{kind.op}: unknown field {name!r} in {data!r}")
        values[name] = _parse_field(raw, types[name])
        if values[name] is None:
            raise MappingError(f"{kind.op}: {name} has a value of the wrong type in {data!r}")
        if values[name] == () and name in _NEVER_EMPTY and "program" not in types:
            raise MappingError(f"{kind.op}: {name} is empty in {data!r}")
    try:
        return kind(**values)
    except TypeError as error:
        raise MappingError(f"{kind.op}: {error} in {data!r}") from error


@cache
def _field_types(kind: type[Expression]) -> dict[str, Any]:
    """Return the type of each field by its annotation, without the None of optional ones."""
    hints = get_type_hints(kind)
    return {field.name: _required(hints[field.name]) for field in fields(kind)}


def _required(hint: Any) -> Any:
    parts = [part for part in get_args(hint) if part is not type(None)]
    return parts[0] if type(None) in get_args(hint) else hint


def _parse_field(raw: object, hint: Any) -> object:
    """Parse one field by its annotation; None where the data has another type."""
    if hint is Expression:
        return parse(raw)
    if hint is Scheme:
        return Scheme.from_json(raw)
    if get_origin(hint) is tuple:
        if not isinstance(raw, list):
            return None
        parts = [_parse_field(part, get_args(hint)[0]) for part in raw]
        return None if None in parts else tuple(parts)
    if hint is float and raw in _NOT_IN_JSON:
        return float(str(raw))
    accepted = (int, float) if hint is float else (hint,)
    if type(raw) not in accepted or (type(raw) is int and abs(raw) >= _NO_INTEGER):
        return None
    return raw
