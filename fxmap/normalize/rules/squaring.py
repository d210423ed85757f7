"""x * x = x ** 2 = square(x), for every input."""

from dataclasses import replace

from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule


def _to_square(context: Context, op: Op) -> Outcome:
    """Turn `pow(x, 2)` and `mul(x, x)` into the kind `square`."""
    ops, operands = context.ops, context.ops.operands(op.name)
    if op.kind == "pow":
        if list(operands) != ["input"] or [value for _, value in op.attributes] != [2]:
            return "the exponent is not 2"
    else:
        factors = operands.get("input", [])
        if len(factors) != 2 or factors[0] != factors[1]:
            return "the factors differ"
        ops.network.remove_edge(factors[0], op.name, key=ops.edge(factors[0], op.name, "input"))
    ops.add(replace(op, kind="square", attributes=()))
    return (op.name,)


UNIFY_SQUARE = Rule("unify squares", frozenset({"pow", "mul"}), _to_square)
