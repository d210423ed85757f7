"""adaptive_avg_pool(x, 1) = mean(x) over all positions.

Holds for every input: one window covers the whole map.
"""

from dataclasses import replace

from fxmap.graph.opgraph import OpGraph


def pool_to_mean(graph: OpGraph) -> None:
    """Turn adaptive average pooling to one position into a mean."""
    for op in graph.of_kind({"adaptive_avg_pool"}):
        if op.attributes == (("output_size", 1),):
            graph.add(replace(op, kind="mean", attributes=()))
