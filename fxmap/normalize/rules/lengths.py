"""sqrt(sum(x^2)) = |x|, the 2-norm of what is real, for every input."""

from dataclasses import replace

from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule
from fxmap.normalize.rules.axes import sole


def _to_length(context: Context, op: Op) -> Outcome:
    """Write the root of a sum of squares as one operation."""
    ops = context.ops
    (total,) = ops.operands(op.name).get("input", [""])
    square = sole(ops, total, "sum") if total else None
    x = sole(ops, square, "square") if square else None
    if x is None or square is None:
        return "it is not of a sum of squares"
    dtype = context.nodes[ops.op(x).output].meta.get("dtype") if ops.op(x).output in context.nodes else None
    if dtype is not None and dtype.is_complex:
        return "its squares are of complex numbers, and may be negative"
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    ops.network.add_edge(x, op.name, argument="input")
    ops.add(replace(op, kind="linalg_vector_norm", attributes=(), written=op.spelling))
    ops.drop_unread([total])
    return (op.name, x)


TO_LENGTH = Rule("roots of sums of squares", frozenset({"sqrt"}), _to_length)
