"""sqrt(var(x)) = std(x), for every input: over the same axes, with the same correction."""

from dataclasses import replace

from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule


def _to_std(context: Context, op: Op) -> Outcome:
    """Make one operation of a variance and its root."""
    ops = context.ops
    (name,) = ops.operands(op.name).get("input", [""])
    variance = ops.op(name) if name else None
    if variance is None or variance.kind != "var" or len(ops.users(name)) != 1:
        return "it is not the root of a variance that nothing else reads"
    ops.add(replace(op, kind="std", attributes=variance.attributes))
    return (op.name, *ops.bypass(name, "input"))


ROOT_OF_VARIANCE = Rule("roots of variances as deviations", frozenset({"sqrt"}), _to_std)
