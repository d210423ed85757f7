"""Data movement computes nothing: consumers read through it.

view(x), permute(x), flatten(x), chunk(x)[i] and their like hold the elements of x and no others. Which elements a consumer
reads, and in which order, is left to the proof; structure alone needs only where values come from.
"""

from fxmap.graph.kinds import Trait, kinds
from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule


def _pass_movement(context: Context, op: Op) -> Outcome:
    if len(context.ops.operands(op.name).get("input", [])) != 1:
        return "it moves several values, or none"
    return context.ops.bypass(op.name, "input")


def _pass_repetition(context: Context, op: Op) -> Outcome:
    """Read through a value that is joined to itself: heads that share keys and values."""
    operands = context.ops.operands(op.name)
    if len({producer for producers in operands.values() for producer in producers}) != 1:
        return "it joins different values"
    return context.ops.bypass(op.name, next(iter(operands)))


PASS_MOVEMENT = Rule("read through data movement", kinds(Trait.MOVEMENT), _pass_movement)


PASS_REPETITION = Rule("read through repetition", kinds(Trait.JOIN), _pass_repetition)
