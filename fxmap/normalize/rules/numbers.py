"""f(x, tensor(c)) = f(x, c): an operand that holds one number everywhere is that number.

Holds for every input, for operations that compute element by element: maximum(x, zeros_like(x)) = maximum(x, 0),
where(m, x, full(c)) = where(m, x, c), clamp(x, min=tensor(c)) = clamp(x, min=c).
"""

from dataclasses import replace

from torch import fx

from fxmap.graph.arguments import bind
from fxmap.graph.kinds import facts, kind_of
from fxmap.graph.opgraph import CONSTANT, Op
from fxmap.normalize.rule import Context, Outcome, Rule

# The operands that may be numbers.
_OPERANDS = {
    "where": ("input", "other"),
    "masked_fill": ("value",),
    "clamp": ("min", "max"),
    "clamp_min": ("min",),
    "clamp_max": ("max",),
    "maximum": ("input",),
    "minimum": ("input",),
}


# What is filled with one number, and the attribute that says with which.
_FILLED = {"zeros": 0, "ones": 1, "full": "fill_value", "scalar_tensor": "s"}


def number_of(context: Context, name: str) -> float | None:
    """Return the number that all elements of a constant have; None where they differ, or there is no constant."""
    op = context.ops.op(name)
    if op.kind == CONSTANT:
        value = context.constants.get(op.output)
        few = value is not None and not value.is_meta and not value.is_complex() and value.numel() > 0
        return float(value.flatten()[0]) if value is not None and few and bool((value == value.flatten()[0]).all()) else None
    filled = _FILLED.get(op.kind)
    number = op.attribute(filled) if isinstance(filled, str) else filled
    return float(number) if isinstance(number, int | float) and not context.ops.operands(name) else None


def _filled_with(node: fx.Node) -> float | None:
    """Return the number that a tensor of some size is filled with; None for other values that sizes make."""
    kind = kind_of(node)
    if kind == "tensor":
        return float(node.args[0]) if node.args and isinstance(node.args[0], int | float) else None
    filled = _FILLED.get(kind, _FILLED.get(facts(kind).filled))
    number = bind(node).get(filled) if isinstance(filled, str) else filled
    return float(number) if isinstance(number, int | float) else None


def _to_number(context: Context, op: Op) -> Outcome:
    """Write a constant operand as an attribute, which takes its edge out."""
    ops = context.ops
    for argument, name in ops.numbers.get(op.name, ()):
        number = _filled_with(context.nodes[name]) if argument in _OPERANDS[op.kind] else None
        if number is not None:
            ops.numbers[op.name] = tuple(pair for pair in ops.numbers[op.name] if pair != (argument, name))
            named = "other" if op.kind in ("maximum", "minimum") else argument
            ops.add(replace(op, attributes=tuple(sorted((*op.attributes, (named, number))))))
            return (op.name,)
    for argument in _OPERANDS[op.kind]:
        producers = ops.operands(op.name).get(argument, [])
        if op.kind in ("maximum", "minimum") and len(producers) != 2:
            continue
        for producer in producers:
            number = number_of(context, producer)
            if number is None:
                continue
            ops.network.remove_edge(producer, op.name, key=ops.edge(producer, op.name, argument))
            named = "other" if op.kind in ("maximum", "minimum") else argument
            ops.add(replace(op, attributes=tuple(sorted((*op.attributes, (named, number))))))
            ops.drop_unread([producer])
            return (op.name,)
    return "no operand is one number everywhere"


CONSTANT_AS_NUMBER = Rule("constants as numbers", frozenset(_OPERANDS), _to_number)
