"""(x + a) + b = (x + b) + a: tensors of the state dict that are added to one value, in any order.

Holds for every input. Token, position and segment embeddings are added up in one order or another. Tensors of different
extents are told apart by these; where two have the same, the sums stay as they are.
"""

from fxmap.graph.opgraph import TENSOR, Op, OpGraph
from fxmap.normalize.rule import Context, Outcome, Rule


def _gather(context: Context, op: Op) -> Outcome:
    """Merge two sums of one value and tensors, one behind the other, into one with an argument for each tensor."""
    ops, users = context.ops, context.ops.users(op.name)
    first = _split(ops, op.name)
    if first is None or len(users) != 1:
        return "it does not add tensors of the state dict to a value for one consumer"
    name = users[0][0]
    second = _split(ops, name)
    if second is None or second[0] != op.name:
        return "what reads it adds no tensors of the state dict to it"
    terms = [*first[1], *second[1]]
    arguments = [f"term {ops.op(term).extents}" for term in terms]
    if len(set(arguments)) < len(arguments):
        return "two of the tensors have the same extents"
    ops.network.remove_edges_from([(part, name, key) for part, _, key in list(ops.network.in_edges(name, keys=True))])
    ops.network.add_edge(first[0], name, argument="input")
    for term, argument in zip(terms, arguments, strict=True):
        ops.network.add_edge(term, name, argument=argument)
    ops.network.remove_node(op.name)
    return (first[0], name)


def _split(ops: OpGraph, name: str) -> tuple[str, list[str]] | None:
    """Return the value in a sum and the state dict tensors that are added to it; None for other operations."""
    if ops.op(name).kind != "add" or ops.op(name).attributes:
        return None
    producers = [producer for parts in ops.operands(name).values() for producer in parts]
    terms = [producer for producer in producers if ops.op(producer).kind == TENSOR]
    values = [producer for producer in producers if producer not in terms]
    return (values[0], terms) if len(values) == 1 and terms else None


GATHER_TERMS = Rule("gather tensors that are added", frozenset({"add"}), _gather)
