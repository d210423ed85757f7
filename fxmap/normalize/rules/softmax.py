"""exp(x - m) / sum(exp(x - m)) = softmax(x), where m is the same along the axis of the sum; and its logarithms.

    softmax(x - m) = softmax(x)        log(softmax(x)) = x - m - log(sum(exp(x - m))) = log_softmax(x)
    m + log(sum(exp(x - m))) = logsumexp(x)

Hold for every input: m is the largest of x along that axis, which keeps the powers from overflowing.
"""

from dataclasses import replace
from typing import Any

from fxmap.graph.arguments import bind
from fxmap.graph.opgraph import Op, OpGraph
from fxmap.normalize.rule import Context, Outcome, Rule
from fxmap.normalize.rules.axes import axes_of, sole


def _keeps(context: Context, name: str) -> bool:
    node = context.nodes.get(name)
    return node is not None and bind(node).get("keepdim") is True


def _less_largest(context: Context, name: str, dims: Any) -> tuple[str, str] | None:
    """Return x and m of x - m, where m is the largest of x along these axes; None of other values."""
    ops, operands = context.ops, context.ops.operands(name)
    if ops.op(name).kind != "sub" or ops.op(name).attributes or sorted(operands) != ["input", "other"]:
        return None
    (x,), (m,) = operands["input"], operands["other"]
    node = context.nodes.get(m)
    # One axis after the other, the last one alone is known.
    whole = node is not None and [part.name for part in node.all_input_nodes] == [ops.op(x).output]
    same = sole(ops, m, "amax") == x and _keeps(context, m) and axes_of(context, m) == dims
    return (x, m) if same and whole and dims is not None else None


def _to_softmax(context: Context, op: Op) -> Outcome:
    """Write a quotient of powers and their sum as a softmax."""
    ops, operands = context.ops, context.ops.operands(op.name)
    if op.attributes or sorted(operands) != ["input", "other"]:
        return "it is no quotient of two values"
    (power,), (total,) = operands["input"], operands["other"]
    shifted = sole(ops, power, "exp")
    if shifted is None or sole(ops, total, "sum") != power or not _keeps(context, total):
        return "it is not the quotient of powers and their sum"
    found = _less_largest(context, shifted, axes_of(context, total))
    dims = axes_of(context, total)
    if dims is None or len(dims) != 1:
        return "it goes along several axes, or which is not known"
    return _written(ops, op, "softmax", found[0] if found else shifted)


def _without_shift(context: Context, op: Op) -> Outcome:
    """Leave out what a softmax takes from all numbers alike."""
    ops = context.ops
    (before,) = ops.operands(op.name).get("input", [""])
    found = _less_largest(context, before, axes_of(context, op.name)) if before else None
    return "it reads no difference from the largest" if found is None else _written(ops, op, op.kind, found[0])


def _to_logarithm(context: Context, op: Op) -> Outcome:
    """Write the logarithm of a softmax as one operation."""
    ops = context.ops
    (before,) = ops.operands(op.name).get("input", [""])
    x = sole(ops, before, "softmax") if before else None
    return "it is not of a softmax" if x is None else _written(ops, op, "log_softmax", x)


def _to_logsumexp(context: Context, op: Op) -> Outcome:
    """Write the largest and the logarithm of a sum of powers as one operation, or x less both."""
    ops, operands = context.ops, context.ops.operands(op.name)
    if op.attributes:
        return "it is not of two values"
    terms = operands.get("input", []) if op.kind == "add" else [*operands.get("other", []), *operands.get("input", [])]
    if len(terms) != 2:
        return "it is not of two values"
    for logarithm, rest in (terms, terms[::-1]) if op.kind == "add" else [terms]:
        total = sole(ops, logarithm, "log") or ""
        power = sole(ops, total, "sum") if total else None
        shifted = sole(ops, power, "exp") if power and _keeps(context, total) else None
        found = _less_largest(context, shifted, axes_of(context, total)) if shifted else None
        if found and op.kind == "add" and rest == found[1]:
            return _written(ops, op, "logsumexp", found[0])
        if found and op.kind == "sub" and rest == shifted:
            return _written(ops, op, "log_softmax", found[0])
    return "it is no logarithm of a sum of powers"


def _written(ops: OpGraph, op: Op, kind: str, x: str) -> tuple[str, ...]:
    before = list(ops.network.predecessors(op.name))
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    ops.network.add_edge(x, op.name, argument="input")
    ops.add(replace(op, kind=kind, attributes=(), written=op.spelling))
    ops.drop_unread([name for name in before if name != x])
    return (op.name, x)


RESTORE_SOFTMAX = Rule("restore softmax", frozenset({"div"}), _to_softmax)


SHIFT_SOFTMAX = Rule("softmax of differences", frozenset({"softmax", "log_softmax"}), _without_shift)


LOG_OF_SOFTMAX = Rule("logarithms of softmax", frozenset({"log"}), _to_logarithm)


RESTORE_LOGSUMEXP = Rule("restore logarithms of sums of powers", frozenset({"add", "sub"}), _to_logsumexp)
