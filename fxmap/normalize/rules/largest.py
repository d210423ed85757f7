"""max(x, d)[0] = topk(x, 1, d)[0] = amax(x, d), and adaptive_max_pool(x, 1) = amax(x) over all positions.

Hold for every input, where nothing reads the places of the largest. amax(amax(x, d), e) is amax(x) over both axes, and so
are means, and sums.
"""

from dataclasses import replace

from fxmap.graph.opgraph import Op, OpGraph
from fxmap.normalize.rule import Context, Outcome, Rule

_SMALLEST = {"min": "amin", "max": "amax"}


def _to_largest(context: Context, op: Op) -> Outcome:
    """Write what takes the largest, or the smallest, along axes in the one way."""
    ops, operands, given = context.ops, context.ops.operands(op.name), dict(op.attributes)
    if list(operands) != ["input"] or len(operands["input"]) != 1 or _places_are_read(ops, op.name):
        return "it is of two values, or the places of the largest are read"
    match op.kind:
        case "max" | "min" if not given:
            kind = _SMALLEST[op.kind]
        case "topk" if given.pop("k", None) == 1 and given.keys() <= {"largest", "sorted"}:
            kind = "amax" if given.get("largest", True) else "amin"
        case "adaptive_max_pool" if op.attributes == (("output_size", 1),):
            kind = "amax"
        case _:
            return "it takes more than one number"
    ops.add(replace(op, kind=kind, attributes=(), written=op.spelling))
    return (op.name,)


def _places_are_read(ops: OpGraph, name: str) -> bool:
    """Whether a second result may be read: the first one is the operation's own value."""
    items = [(ops.op(user), argument) for user, argument in ops.users(name) if ops.op(user).kind == "getitem"]
    return any(argument == "values" or {1, "indices"} & {value for _, value in item.attributes} for item, argument in items)


def _join(context: Context, op: Op) -> Outcome:
    """Merge the largest, or the mean, along one axis into that of these."""
    ops = context.ops
    (before,) = ops.operands(op.name).get("input", [""])
    if not before or ops.op(before).kind != op.kind or len(ops.users(before)) != 1:
        return "it is not of another one of its kind, which nothing else reads"
    return (op.name, *ops.bypass(before, "input"))


UNIFY_LARGEST = Rule("the largest along axes", frozenset({"max", "min", "topk", "adaptive_max_pool"}), _to_largest)


JOIN_LARGEST = Rule("the largest of what is largest", frozenset({"amax", "amin", "mean", "sum"}), _join)
