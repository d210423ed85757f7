"""Scaling and shifting by constants is compared by value, not by structure: consumers read through x * 2, x / 8, x + 3.

Attention divides its scores by the root of the head's size before, after, or half before and half in the keys; the
products are the same. Which constants a model uses, every input shows.
"""

from fxmap.graph.kinds import Trait, kinds
from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule


def _pass_scaling(context: Context, op: Op) -> Outcome:
    operands = context.ops.operands(op.name)
    if list(operands) != ["input"] or len(operands["input"]) != 1:
        return "it is not of one value and a number"
    if op.name in context.ops.pieces:
        return "inputs need not show what it adds"
    return context.ops.bypass(op.name, "input")


PASS_SCALING = Rule("read through scaling by a number", kinds(Trait.SCALING), _pass_scaling)
