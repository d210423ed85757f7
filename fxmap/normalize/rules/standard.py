"""(w - mean(w)) / sqrt(var(w) + eps) = batch_norm(w) = layer_norm(w): a weight that is standardised before it is used.

Hold for every weight, over the same axes, of the biased variance, where the norm has no tensors of its own. They have one
spelling, so that what reads the weight is one operation. Norms of values that are no weights stay as they are.
"""

from dataclasses import replace

from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import TENSOR, Op, OpGraph
from fxmap.normalize.rule import Context, Outcome, Rule

_NORMS = frozenset({"batch_norm", "layer_norm", "group_norm", "instance_norm"})


def _standardize(context: Context, op: Op) -> Outcome:
    """Write the standardisation of a weight as one operation."""
    ops = context.ops
    found = _of_norm(ops, op) if op.kind in _NORMS else _by_hand(context, op)
    if found is None or ops.op(_weight(ops, found[0])).kind != TENSOR:
        return "it standardises no weight"
    weight, eps = found
    before = list(ops.network.predecessors(op.name))
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    ops.network.add_edge(weight, op.name, argument="input")
    ops.add(replace(op, kind="standardize", attributes=(("eps", eps),), written=op.spelling))
    ops.drop_unread([name for name in before if name != weight])
    return (op.name, weight)


def _weight(ops: OpGraph, name: str) -> str:
    while has(ops.op(name).kind, Trait.MOVEMENT) and list(ops.operands(name)) == ["input"]:
        (name,) = ops.operands(name)["input"]
    return name


def _of_norm(ops: OpGraph, op: Op) -> tuple[str, float] | None:
    operands = ops.operands(op.name)
    return (operands["input"][0], float(op.attribute("eps", 1e-5))) if list(operands) == ["input"] else None


def _by_hand(context: Context, op: Op) -> tuple[str, float] | None:
    """Return w and eps of (w - mean(w)) / sqrt(var(w) + eps), or of its product with the inverse root."""
    ops, operands = context.ops, context.ops.operands(op.name)
    parts = [name for names in operands.values() for name in names]
    if op.attributes or len(parts) != 2:
        return None
    for centred, root in (parts, parts[::-1]) if op.kind == "mul" else [(operands["input"][0], operands["other"][0])]:
        shifted = _only(ops, root, "rsqrt" if op.kind == "mul" else "sqrt")
        variance = _only(ops, shifted, "add") if shifted else None
        if shifted is None or variance is None or ops.op(centred).kind != "sub" or ops.op(centred).attributes:
            continue
        ((w,), (mean,)) = ops.operands(centred).get("input", [""]), ops.operands(centred).get("other", [""])
        numbers = [value for _, value in ops.op(shifted).attributes]
        if len(numbers) == 1 and _is_variance(ops, variance, w) and _only(ops, mean, "mean") == w:
            return w, float(numbers[0])
    return None


def _only(ops: OpGraph, name: str | None, kind: str) -> str | None:
    """Return the one operand of an operation of a kind; None of others."""
    if not name or ops.op(name).kind != kind:
        return None
    operands = ops.operands(name)
    return operands["input"][0] if list(operands) == ["input"] and len(operands["input"]) == 1 else None


def _is_variance(ops: OpGraph, name: str, w: str) -> bool:
    """Whether an operation is the biased variance of a value."""
    op = ops.op(name)
    biased = {"unbiased": False, "correction": 0}
    return _only(ops, name, "var") == w and len(op.attributes) == 1 and all(biased.get(k) == v for k, v in op.attributes)


STANDARDIZE = Rule("standardised weights", _NORMS | {"div", "mul"}, _standardize)
