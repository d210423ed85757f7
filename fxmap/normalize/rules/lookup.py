"""w[i] = embedding(i, w): rows of a table, by one index along its first axis.

Holds for every input without a row that pads, which only training treats in another way.
"""

from dataclasses import replace

from fxmap.graph.opgraph import TENSOR, OpGraph

_INDEX = {"index": "indices.0", "index_select": "index"}


def index_to_embedding(graph: OpGraph) -> None:
    """Turn what takes rows of a matrix of the state dict by computed numbers into an embedding."""
    for op in graph.of_kind(set(_INDEX)):
        operands, numbers = graph.operands(op.name), _INDEX[op.kind]
        if set(operands) != {"input", numbers} or op.attribute("dim", 0) != 0:
            continue
        ((table,), (index,)) = operands["input"], operands[numbers]
        if graph.op(table).kind != TENSOR or len(graph.op(table).shape or ()) != 2 or graph.op(index).kind == TENSOR:
            continue
        graph.network.remove_edge(table, op.name, key=graph.edge(table, op.name, "input"))
        graph.network.remove_edge(index, op.name, key=graph.edge(index, op.name, numbers))
        graph.network.add_edge(table, op.name, argument="weight")
        graph.network.add_edge(index, op.name, argument="input")
        graph.add(replace(op, kind="embedding", attributes=()))
