"""(a + b) + c = a + (b + c): a sum of sums is one sum of all their terms.

Holds for every input. Sums that more than one operation reads stay, and so do those that a tensor of the state dict takes
part in: which one it is added to tells it apart.
"""

from fxmap.graph.opgraph import TENSOR, Op, OpGraph
from fxmap.normalize.rule import Context, Outcome, Rule


def _flatten(context: Context, op: Op) -> Outcome:
    """Merge a sum of values alone into the one sum that reads it."""
    ops, users = context.ops, context.ops.users(op.name)
    if len(users) != 1:
        return "it has other consumers than one sum"
    ((user, argument),) = users
    if not _plain(ops, op.name) or not _plain(ops, user):
        return "it, or what reads it, is not a sum of values alone"
    terms = ops.operands(op.name)["input"]
    for term in terms:
        ops.network.add_edge(term, user, argument=argument)
    ops.network.remove_node(op.name)
    return (user, *terms)


def _plain(ops: OpGraph, name: str) -> bool:
    """Whether an operation is a sum of two or more values, none of them a tensor of the state dict."""
    operands = ops.operands(name)
    terms = operands.get("input", [])
    same_kind = ops.op(name).kind == "add" and not ops.op(name).attributes and list(operands) == ["input"]
    return same_kind and len(terms) > 1 and all(ops.op(term).kind != TENSOR for term in terms)


FLATTEN_SUM = Rule("flatten sums", frozenset({"add"}), _flatten)
