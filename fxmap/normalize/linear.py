"""addmm(b, x, t(w)) = linear(x, w, b), and mm(x, t(w)) = linear(x, w).

Holds for every input: it is how torch computes a linear layer. The weight is `o i`, read through one transposition.
"""

from dataclasses import replace

from fxmap.graph import TENSOR, OpGraph

_TRANSPOSITIONS = {"t", "transpose", "permute"}


def restore_linear(graph: OpGraph) -> OpGraph:
    """Turn matrix products with a transposed parameter back into linear layers."""
    found = [(op.name, read) for op in graph.ops() if op.kind in ("addmm", "mm") and (read := _weight(graph, op.name))]
    if not found:
        return graph
    graph = graph.copy()
    for name, (transposition, weight) in found:
        graph.network.remove_edge(transposition, name, key=graph.edge(transposition, name, "mat2"))
        graph.network.add_edge(weight, name, argument="weight")
        graph.add(replace(graph.op(name), kind="linear"))
        if not graph.users(transposition):
            graph.network.remove_node(transposition)
    return graph


def _weight(graph: OpGraph, name: str) -> tuple[str, str] | None:
    (transposition,) = graph.operands(name).get("mat2", [""])
    if not transposition or graph.op(transposition).kind not in _TRANSPOSITIONS:
        return None
    (source,) = graph.operands(transposition)["input"]
    shape = graph.op(source).shape
    return (transposition, source) if graph.op(source).kind == TENSOR and shape is not None and len(shape) == 2 else None
