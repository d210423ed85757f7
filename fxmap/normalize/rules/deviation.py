"""mean(x * x) - mean(x) * mean(x) = var(x), and sqrt(var(x)) = std(x), for every input.

Over the same axes; the first is the biased variance, the second has the correction of the first.
"""

from dataclasses import replace

from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule
from fxmap.normalize.rules.axes import axes_of, sole


def _to_std(context: Context, op: Op) -> Outcome:
    """Make one operation of a variance and its root."""
    ops = context.ops
    (name,) = ops.operands(op.name).get("input", [""])
    variance = ops.op(name) if name else None
    if variance is None or variance.kind != "var" or len(ops.users(name)) != 1:
        return "it is not the root of a variance that nothing else reads"
    ops.add(replace(op, kind="std", attributes=variance.attributes))
    return (op.name, *ops.bypass(name, "input"))


def _to_variance(context: Context, op: Op) -> Outcome:
    """Make one operation of the mean of squares less the square of the mean."""
    ops, operands = context.ops, context.ops.operands(op.name)
    if op.attributes or [len(operands.get(argument, [])) for argument in ("input", "other")] != [1, 1]:
        return "it is no difference of two values"
    squares, mean = operands["input"][0], sole(ops, operands["other"][0], "square")
    square = sole(ops, squares, "mean")
    x = sole(ops, square, "square") if square else None
    if x is None or mean is None or sole(ops, mean, "mean") != x:
        return "it is not the mean of squares less the square of the mean"
    if axes_of(context, squares) is None or axes_of(context, squares) != axes_of(context, mean):
        return "the means are not over the same axes"
    before = list(ops.network.predecessors(op.name))
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    ops.network.add_edge(x, op.name, argument="input")
    ops.add(replace(op, kind="var", attributes=(("correction", 0),), written=op.spelling))
    ops.drop_unread(before)
    return (op.name, x)


VARIANCE_OF_MOMENTS = Rule("variances of moments", frozenset({"sub"}), _to_variance)


ROOT_OF_VARIANCE = Rule("roots of variances as deviations", frozenset({"sqrt"}), _to_std)
