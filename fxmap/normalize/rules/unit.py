"""x / max(|x|, eps) = normalize(x, eps), for every input: |x| is the 2-norm along an axis, and eps keeps it from 0."""

from dataclasses import replace

from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule

_NORMS = frozenset({"norm", "linalg_vector_norm", "vector_norm"})


def _to_unit(context: Context, op: Op) -> Outcome:
    """Write a value over its norm, bounded from below, as one operation."""
    ops, operands = context.ops, context.ops.operands(op.name)
    if op.attributes or sorted(operands) != ["input", "other"]:
        return "it is no quotient of two values"
    (x,), (bound,) = operands["input"], operands["other"]
    while has(ops.op(bound).kind, Trait.MOVEMENT) or ops.op(bound).kind in ("expand_as", "broadcast_to"):
        bound = ops.operands(bound)["input"][0]
    eps = dict(ops.op(bound).attributes)
    if ops.op(bound).kind not in ("clamp", "clamp_min") or eps.keys() != {"min"} or list(ops.operands(bound)) != ["input"]:
        return "it is not over what is bounded from below"
    (norm,) = ops.operands(bound)["input"]
    orders = {value for _, value in ops.op(norm).attributes}
    if ops.op(norm).kind not in _NORMS or ops.operands(norm) != {"input": [x]} or not orders <= {2, "fro"}:
        return "it is not over its own length"
    before = list(ops.network.predecessors(op.name))
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    ops.network.add_edge(x, op.name, argument="input")
    attributes = () if eps["min"] == 1e-12 else (("eps", float(eps["min"])),)
    ops.add(replace(op, kind="normalize", attributes=attributes, written=op.spelling))
    ops.drop_unread([name for name in before if name != x])
    return (op.name, x)


TO_UNIT = Rule("values over their length", frozenset({"div"}), _to_unit)
