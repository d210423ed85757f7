"""(x + a) + b = (x + b) + a: tensors of the state dict that are added to one value, in any order.

Holds for every input. Token, position and segment embeddings are added up in one order or another. Tensors of different
extents are told apart by these; where two have the same, the sums stay as they are.
"""

from fxmap.graph.opgraph import TENSOR, OpGraph


def gather_terms(graph: OpGraph) -> None:
    """Merge sums of one value and tensors, one behind the other, into one sum with an argument for each tensor."""
    for op in graph.of_kind({"add"}):
        first, users = _split(graph, op.name), graph.users(op.name)
        if first is None or len(users) != 1:
            continue
        second = _split(graph, users[0][0])
        if second is None or second[0] != op.name:
            continue
        terms = [*first[1], *second[1]]
        arguments = [f"term {graph.op(term).extents}" for term in terms]
        if len(set(arguments)) < len(arguments):
            continue
        name = users[0][0]
        graph.network.remove_edges_from(
            [(part, name, key) for part, _, key in list(graph.network.in_edges(name, keys=True))]
        )
        graph.network.add_edge(first[0], name, argument="input")
        for term, argument in zip(terms, arguments, strict=True):
            graph.network.add_edge(term, name, argument=argument)
        graph.network.remove_node(op.name)


def _split(graph: OpGraph, name: str) -> tuple[str, list[str]] | None:
    """Return the one value that a plain sum adds tensors to, and these; or None."""
    if graph.op(name).kind != "add" or graph.op(name).attributes:
        return None
    producers = [producer for parts in graph.operands(name).values() for producer in parts]
    terms = [producer for producer in producers if graph.op(producer).kind == TENSOR]
    values = [producer for producer in producers if producer not in terms]
    return (values[0], terms) if len(values) == 1 and terms else None
