"""x.new_zeros(shape) = zeros(shape), zeros_like(x) = zeros(shape): a filled tensor does not depend on the values of x.

Holds for every input of the size that was recorded: x gives the shape and the dtype alone.
"""

from dataclasses import replace

from fxmap.graph.kinds import Trait, facts, kinds
from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule


def _fill(context: Context, op: Op) -> Outcome:
    """Remove the edge by which a filled tensor reads the value that gives it its shape."""
    ops = context.ops
    if list(ops.operands(op.name)) != ["input"]:
        return "what it is filled with is computed"
    producers = list(ops.network.predecessors(op.name))
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    ops.add(replace(op, kind=facts(op.kind).filled))
    return (op.name, *producers, *ops.drop_unread(producers))


FILL_CONSTANT = Rule("fill constants", kinds(Trait.FILLED), _fill)
