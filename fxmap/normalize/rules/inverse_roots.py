"""1 / sqrt(x) = rsqrt(x), for every input."""

from dataclasses import replace

from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule


def _to_inverse_root(context: Context, op: Op) -> Outcome:
    """Turn the reciprocal of a root into the kind `rsqrt`."""
    ops, operands = context.ops, context.ops.operands(op.name)
    if op.kind == "div" and [*op.attributes] not in ([("input", 1)], [("input", 1.0)]):
        return "it does not divide 1"
    read = [name for names in operands.values() for name in names]
    if len(read) != 1 or ops.op(read[0]).kind != "sqrt" or list(ops.operands(read[0])) != ["input"]:
        return "what it inverts is no root"
    (root,) = read
    (of,) = ops.operands(root)["input"]
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    ops.network.add_edge(of, op.name, argument="input")
    ops.add(replace(op, kind="rsqrt", attributes=(), written=op.spelling))
    return (op.name, of, *ops.drop_unread([root]))


INVERSE_ROOT = Rule("inverses of roots as inverse roots", frozenset({"reciprocal", "div"}), _to_inverse_root)
