"""|x - y| = |y - x|, for every input."""

from dataclasses import replace

from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule


def _to_distance(context: Context, op: Op) -> Outcome:
    """Make one operation of the absolute value of a difference, whose operands may change places."""
    ops = context.ops
    (name,) = ops.operands(op.name).get("input", [""])
    difference = ops.op(name) if name else None
    if difference is None or difference.kind != "sub" or difference.attributes or len(ops.users(name)) != 1:
        return "it is not of a difference that nothing else reads"
    operands = ops.operands(name)
    if [len(operands.get(argument, [])) for argument in ("input", "other")] != [1, 1]:
        return "it is not of a difference of two values"
    before = list(ops.network.predecessors(op.name))
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    for argument in ("input", "other"):
        ops.network.add_edge(operands[argument][0], op.name, argument="input")
    ops.add(replace(op, kind="absolute_difference", written=op.spelling))
    ops.drop_unread(before)
    return (op.name,)


DISTANCE = Rule("distances", frozenset({"abs"}), _to_distance)
