"""Bounds have one spelling: max(x, 0) = relu(x), min(max(x, a), b) = hardtanh(x, a, b), one bound alone is a clamp.

    relu(x) = clamp(x, min=0) = clamp_min(x, 0) = maximum(x, 0) = threshold(x, 0, 0) = where(x > 0, x, 0)
    relu6(x) = hardtanh(x, 0, 6) = clamp(x, 0, 6) = clamp(relu(x), max=6)
    where(x > y, x, y) = maximum(x, y)        where(x < y, x, y) = minimum(x, y)

Hold for every input, those with a <= b.
"""

from dataclasses import replace

from fxmap.graph.opgraph import Op, OpGraph
from fxmap.normalize.rule import Context, Outcome, Rule

_KINDS = frozenset({"clamp", "clamp_max", "clamp_min", "hardtanh", "maximum", "minimum", "relu", "threshold"})


# A lower and an upper bound, None where there is none.
Bounds = tuple[float | None, float | None]


def bounds_of(ops: OpGraph, name: str) -> Bounds | None:
    """Return the numbers that an operation bounds its one operand by; None where it does something else."""
    op = ops.op(name)
    if list(ops.operands(name)) != ["input"] or len(ops.operands(name)["input"]) != 1:
        return None
    given = {key: float(value) for key, value in op.attributes if isinstance(value, int | float)}
    if len(given) != len(op.attributes):
        return None
    match op.kind:
        case "relu":
            return 0.0, None
        case "hardtanh":
            return given.get("min_val", -1.0), given.get("max_val", 1.0)
        case "clamp" | "clamp_min" | "clamp_max":
            return given.get("min"), given.get("max")
        case "maximum" | "minimum" if "other" in given:
            return (given["other"], None) if op.kind == "maximum" else (None, given["other"])
        case "threshold" if given.get("threshold") is not None and given.get("threshold") == given.get("value"):
            return given["value"], None
    return None


def _spell(context: Context, op: Op) -> Outcome:
    """Write bounds in the one way, together with those of the operand if nothing else reads that."""
    ops, bounds = context.ops, bounds_of(context.ops, op.name)
    if bounds is None or bounds == (None, None):
        return "it does not bound one value by numbers"
    (before,) = ops.operands(op.name)["input"]
    other = bounds_of(ops, before) if ops.op(before).kind in _KINDS and len(ops.users(before)) == 1 else None
    merged = None if other is None else _merged(bounds, other)
    made = spelled(op, merged or bounds)
    if made is None:
        return "its lower bound is above its upper one"
    if merged is None and (made.kind, dict(made.attributes)) == (op.kind, dict(op.attributes)):
        return "it is written so"
    ops.add(made)
    return (op.name, *(ops.bypass(before, "input") if merged is not None else ()))


def _merged(one: Bounds, other: Bounds) -> Bounds | None:
    """Return two bounds as one pair, where one of them is from below and the other from above."""
    lower, upper = (
        [part for part in (one[0], other[0]) if part is not None],
        [part for part in (one[1], other[1]) if part is not None],
    )
    return (lower[0], upper[0]) if len(lower) == len(upper) == 1 and None in one and None in other else None


def spelled(op: Op, bounds: Bounds) -> Op | None:
    """Return an operation that bounds its operand, in the one way; None where the lower bound is above the upper one."""
    lower, upper = bounds
    if lower is not None and upper is not None:
        named = (("max_val", upper), ("min_val", lower))
        return replace(op, kind="hardtanh", attributes=named, written=op.spelling) if lower <= upper else None
    if bounds == (0.0, None):
        return replace(op, kind="relu", attributes=(), written=op.spelling)
    one = ("min", lower) if upper is None else ("max", upper)
    return replace(op, kind="clamp", attributes=(one,), written=op.spelling)


def _select_positive(context: Context, op: Op) -> Outcome:
    """Write where(x > 0, x, 0) as relu(x)."""
    ops, operands = context.ops, context.ops.operands(op.name)
    conditions, values = operands.get("condition", []), operands.get("input", [])
    if len(conditions) != 1 or len(values) != 1 or len(operands) != 2 or dict(op.attributes) != {"other": 0}:
        return "it does not choose between a value and 0"
    condition = ops.op(conditions[0])
    if condition.kind not in ("gt", "ge") or dict(condition.attributes) != {"other": 0}:
        return "the condition is not that a value is above 0"
    if ops.operands(condition.name) != {"input": values}:
        return "the condition is about another value"
    ops.network.remove_edge(condition.name, op.name, key=ops.edge(condition.name, op.name, "condition"))
    ops.add(replace(op, kind="relu", attributes=()))
    ops.drop_unread([condition.name])
    return (op.name,)


def _select_larger(context: Context, op: Op) -> Outcome:
    """Write what is chosen by comparing two values as the larger or the smaller of them."""
    ops, operands = context.ops, context.ops.operands(op.name)
    parts = [operands.get(argument, []) for argument in ("condition", "input", "other")]
    if [len(part) for part in parts] != [1, 1, 1] or op.attributes:
        return "it does not choose between two values"
    (condition,), (one,), (other,) = parts
    kind, compared = ops.op(condition).kind, ops.operands(condition)
    asked = compared.get("input", []), compared.get("other", [])
    if kind not in _ABOVE or ops.op(condition).attributes or asked not in (([one], [other]), ([other], [one])):
        return "the condition does not compare them"
    larger = _ABOVE[kind] is (asked == ([one], [other]))
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    for name in (one, other):
        ops.network.add_edge(name, op.name, argument="input")
    ops.add(replace(op, kind="maximum" if larger else "minimum", written=op.spelling))
    ops.drop_unread([condition])
    return (op.name, one, other)


# Whether a comparison asks if the first value is above the second.
_ABOVE = {"gt": True, "ge": True, "lt": False, "le": False}


UNIFY_BOUNDS = Rule("unify bounds", _KINDS, _spell)


SELECT_POSITIVE = Rule("what is chosen above 0 as relu", frozenset({"where"}), _select_positive)


SELECT_LARGER = Rule("what is chosen by comparing as the larger", frozenset({"where"}), _select_larger)
