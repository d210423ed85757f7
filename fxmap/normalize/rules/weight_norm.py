"""op(x, weight_norm(v, g)) = op(x, w) with w = v * g / |v|: a weight that is kept as direction and size is one tensor.

Holds for every input. Where a destination keeps its weight so, v = w and g = |w| give it.
"""

from fxmap.expressions.arithmetic import WeightNormed
from fxmap.expressions.base import Source
from fxmap.graph.arguments import bind
from fxmap.graph.kinds import Trait, has, kind_of
from fxmap.graph.opgraph import TENSOR, Op, OpGraph
from fxmap.normalize.rule import Context, Outcome, Rule

_KINDS = frozenset({"weight_norm_interface", "weight_norm"})


def count_weight_norms(ops: OpGraph) -> int:
    """Count the weights that are kept as direction and size."""
    return len(ops.of_kind(_KINDS))


def _merge(context: Context, op: Op) -> Outcome:
    """Replace the direction and the size of a weight by one computed tensor; the axis is read from the fx graph."""
    ops, tensors = context.ops, context.ops.tensors(op.name)
    if tensors.keys() != {"v", "g"}:
        return "direction and size are not both tensors of the state dict"
    v, g = tensors["v"], tensors["g"]
    assert v.key is not None
    assert g.key is not None
    node = context.nodes[op.name]
    ops.computed[op.name] = WeightNormed(Source(v.key), Source(g.key), int(bind(node).get("dim", 0)))
    made = Op(f"%{op.name}", TENSOR, output=op.output, key=op.name, shape=v.shape)
    ops.add(made)
    users = ops.substitute(op.name, made.name)
    ops.network.remove_nodes_from([v.name, g.name])
    ops.weights.update((op.name, op.output))
    return (made.name, *users)


def spread_weights(context: Context) -> None:
    """Mark the fx nodes that only move weights as weights themselves. Linear in the number of nodes."""
    weights = context.ops.weights
    for node in context.graph.nodes:
        parts = node.all_input_nodes
        if parts and has(kind_of(node), Trait.MOVEMENT) and all(part.name in weights for part in parts):
            weights.add(node.name)


MERGE_WEIGHT_NORM = Rule("merge weight norms", _KINDS, _merge)
