"""adaptive_avg_pool(x, 1) = mean(x) over all positions.

Holds for every input: one window covers the whole map.
"""

from dataclasses import replace

from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule


def _to_mean(context: Context, op: Op) -> Outcome:
    if op.attributes != (("output_size", 1),):
        return "it pools to more than one position"
    context.ops.add(replace(op, kind="mean", attributes=()))
    return (op.name,)


POOL_TO_MEAN = Rule("pooling to one position as a mean", frozenset({"adaptive_avg_pool"}), _to_mean)
