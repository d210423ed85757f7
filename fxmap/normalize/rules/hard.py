"""hardsigmoid(x) = relu6(x + 3) / 6, and hardswish(x) = x hardsigmoid(x) = x relu6(x + 3) / 6.

The first is clamp((x + 3) / 6, 0, 1) = clamp(x / 6 + 1 / 2, 0, 1) as well.

Hold for every input. The division may be a product with 1 / 6, and may come before the product with x or behind it.
"""

from dataclasses import replace

from fxmap.graph.opgraph import Op, OpGraph
from fxmap.normalize.rule import Context, Outcome, Rule
from fxmap.normalize.rules.clamping import bounds_of

_SCALING = frozenset({"mul", "div"})


_GATES = _SCALING | {"hardtanh"}


def _to_hardsigmoid(context: Context, op: Op) -> Outcome:
    """Write relu6(x + 3) / 6, or clamp(x / 6 + 1 / 2, 0, 1), as a hard sigmoid."""
    ops = context.ops
    if op.kind == "hardtanh":
        return _to_gate(ops, op)
    (value,) = ops.operands(op.name).get("input", [""]) if _is_sixth(ops, op) else ("",)
    x = _shifted(ops, value) if value else None
    if x is None:
        return "it is not a sixth of relu6(x + 3)"
    return _written(ops, op, "hardsigmoid", x, value)


def _to_gate(ops: OpGraph, op: Op) -> Outcome:
    """Write clamp(x / 6 + 1 / 2, 0, 1) as a hard sigmoid."""
    if bounds_of(ops, op.name) != (0, 1):
        return "it does not bound a value by 0 and 1"
    (before,), half = ops.operands(op.name)["input"], _summand(ops, op.name, 0.5)
    if half is not None and _is_sixth(ops, ops.op(half)):
        return _written(ops, op, "hardsigmoid", ops.operands(half)["input"][0], before)
    x = _summand(ops, before, 3) if _is_sixth(ops, ops.op(before)) else None
    return "it bounds no x / 6 + 1 / 2" if x is None else _written(ops, op, "hardsigmoid", x, before)


def _to_hardswish(context: Context, op: Op) -> Outcome:
    """Write the product of a value and its hard sigmoid as a hard swish; or a sixth of x relu6(x + 3)."""
    ops = context.ops
    factors = ops.operands(op.name).get("input", [])
    if op.kind == "mul" and not op.attributes and len(factors) == 2:
        for x, gate in (factors, factors[::-1]):
            if ops.op(gate).kind == "hardsigmoid" and ops.operands(gate).get("input") == [x]:
                return _written(ops, op, "hardswish", x, gate)
        return "it is no product of a value and its hard sigmoid"
    if not _is_sixth(ops, op) or ops.op(factors[0]).kind != "mul" or ops.op(factors[0]).attributes:
        return "it is not a sixth of a product"
    product = ops.operands(factors[0]).get("input", [])
    for x, gate in (product, product[::-1]) if len(product) == 2 else ():
        if _shifted(ops, gate) == x:
            return _written(ops, op, "hardswish", x, factors[0])
    return "it is no product of x and relu6(x + 3)"


def _is_sixth(ops: OpGraph, op: Op) -> bool:
    """Whether an operation divides one value by 6."""
    numbers, operands = [value for _, value in op.attributes], ops.operands(op.name)
    if op.kind not in _SCALING:
        return False
    one = list(operands) == ["input"] and len(operands["input"]) == 1
    return one and numbers == [6 if op.kind == "div" else 1 / 6]


def _shifted(ops: OpGraph, name: str) -> str | None:
    """Return x of relu6(x + 3)."""
    if ops.op(name).kind != "hardtanh" or bounds_of(ops, name) != (0, 6):
        return None
    return _summand(ops, name, 3)


def _summand(ops: OpGraph, name: str, number: float) -> str | None:
    """Return the value of which an operation reads the sum with a number."""
    (before,) = ops.operands(name)["input"]
    op, operands = ops.op(before), ops.operands(before)
    summed = op.kind == "add" and [value for _, value in op.attributes] == [number] and list(operands) == ["input"]
    return operands["input"][0] if summed and len(operands["input"]) == 1 else None


def _written(ops: OpGraph, op: Op, kind: str, x: str, part: str) -> tuple[str, ...]:
    """Have an operation compute from x alone, and drop the parts that nothing else reads."""
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    ops.network.add_edge(x, op.name, argument="input")
    ops.add(replace(op, kind=kind, attributes=()))
    ops.drop_unread([part])
    return (op.name, x)


RESTORE_HARDSIGMOID = Rule("restore hard sigmoids", _GATES, _to_hardsigmoid)


RESTORE_HARDSWISH = Rule("restore hard swishes", _SCALING, _to_hardswish)
