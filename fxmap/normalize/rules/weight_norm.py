"""op(x, weight_norm(v, g)) = op(x, w) with w = v * g / |v|: a weight that is kept as direction and size is one tensor.

Holds for every input. Where a destination keeps its weight so, v = w and g = |w| give it.
"""

from dataclasses import replace

from torch import fx

from fxmap.expressions.arithmetic import WeightNormed
from fxmap.expressions.base import Source
from fxmap.graph.arguments import bind
from fxmap.graph.kinds import Trait, has, kind_of
from fxmap.graph.opgraph import TENSOR, Op, OpGraph

_KINDS = {"weight_norm_interface", "weight_norm"}


def count_weight_norms(graph: OpGraph) -> int:
    """Count the weights that are kept as direction and size."""
    return len(graph.of_kind(_KINDS))


def merge_weight_norms(graph: OpGraph, traced: fx.Graph) -> OpGraph:
    """Put one computed tensor in the place of every direction and size, of which `traced` tells the axis."""
    nodes = {node.name: node for node in traced.nodes}
    weights = set(graph.weights)
    for op in graph.of_kind(_KINDS):
        tensors = graph.tensors(op.name)
        if tensors.keys() != {"v", "g"}:
            continue
        v, g = tensors["v"], tensors["g"]
        assert v.key is not None
        assert g.key is not None
        graph.computed[op.name] = WeightNormed(Source(v.key), Source(g.key), int(bind(nodes[op.name]).get("dim", 0)))
        made = Op(f"%{op.name}", TENSOR, output=op.output, key=op.name, shape=v.shape)
        graph.add(made)
        for user, argument in graph.users(op.name):
            graph.network.add_edge(made.name, user, argument=argument)
        graph.network.remove_nodes_from([op.name, v.name, g.name])
        weights |= {op.name, op.output}
    for node in traced.nodes:
        parts = node.all_input_nodes
        if parts and has(kind_of(node), Trait.MOVEMENT) and all(part.name in weights for part in parts):
            weights.add(node.name)
    return replace(graph, weights=frozenset(weights))
