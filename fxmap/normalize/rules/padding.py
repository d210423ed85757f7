"""pad(x, p, "constant", c) = constant_pad_nd(x, p, c), for every input; without a number it is padded by 0."""

from dataclasses import replace

from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule


def _to_constant(context: Context, op: Op) -> Outcome:
    """Make one kind of the ways to pad by a number."""
    if op.attribute("mode", "constant") != "constant":
        return "it does not pad by a number"
    attributes = tuple((name, value) for name, value in op.attributes if name != "mode" and (name, value) != ("value", 0))
    context.ops.add(replace(op, kind="constant_pad_nd", attributes=attributes))
    return (op.name,)


PAD_BY_NUMBER = Rule("padding by a number", frozenset({"pad"}), _to_constant)
