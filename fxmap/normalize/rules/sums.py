"""(a + b) + c = a + (b + c): a sum of sums is one sum of all their terms.

Holds for every input. Sums that more than one operation reads stay, and so do those that a tensor of the state dict takes
part in: which one it is added to tells it apart.
"""

from fxmap.graph.opgraph import TENSOR, OpGraph


def flatten_sums(graph: OpGraph) -> None:
    """Merge every sum of values alone into the one sum that reads it."""
    for op in graph.of_kind({"add"}):
        users = graph.users(op.name)
        if len(users) != 1 or not _plain(graph, op.name) or not _plain(graph, users[0][0]):
            continue
        ((user, argument),) = users
        for producer in graph.operands(op.name)["input"]:
            graph.network.add_edge(producer, user, argument=argument)
        graph.network.remove_node(op.name)


def _plain(graph: OpGraph, name: str) -> bool:
    """Whether an operation is a sum of two or more values, none of them a tensor of the state dict."""
    operands = graph.operands(name)
    terms = operands.get("input", [])
    same_kind = graph.op(name).kind == "add" and not graph.op(name).attributes and list(operands) == ["input"]
    return same_kind and len(terms) > 1 and all(graph.op(term).kind != TENSOR for term in terms)
