"""adaptive_avg_pool(x, 1) = mean(x) over all positions.

Holds for every input: one window covers the whole map.
"""

from dataclasses import replace

from fxmap.graph import OpGraph


def pool_to_mean(graph: OpGraph) -> OpGraph:
    """Turn adaptive average pooling to one position into a mean."""
    found = [op for op in graph.ops() if op.kind == "adaptive_avg_pool" and op.attributes == (("output_size", 1),)]
    if not found:
        return graph
    graph = graph.copy()
    for op in found:
        graph.add(replace(op, kind="mean", attributes=()))
    return graph
