"""w[i] = one_hot(i) w = embedding(i, w): rows of a table, by one index along its first axis.

Holds for every input without a row that pads, which only training treats in another way.
"""

from dataclasses import replace

import torch

from fxmap.graph.kinds import Trait, has, kinds
from fxmap.graph.opgraph import TENSOR, Op
from fxmap.normalize.rule import Context, Outcome, Rule
from fxmap.normalize.rules.numbers import number_of

# Under which argument each reads the numbers of rows.
_NUMBERS = {"index": "indices.0", "index_select": "index"}


def _to_embedding(context: Context, op: Op) -> Outcome:
    """Turn an index operation that selects rows of a parameter matrix into an embedding."""
    ops = context.ops
    operands, numbers = ops.operands(op.name), _NUMBERS[op.kind]
    if set(operands) != {"input", numbers} or op.attribute("dim", 0) != 0:
        return "it does not take rows by one index"
    ((table,), (index,)) = operands["input"], operands[numbers]
    if ops.op(table).kind != TENSOR or len(ops.op(table).shape or ()) != 2:
        return "what it takes rows of is no matrix of the state dict"
    if ops.op(index).kind == TENSOR:
        return "the numbers of the rows stand in the state dict"
    ops.network.remove_edge(table, op.name, key=ops.edge(table, op.name, "input"))
    ops.network.remove_edge(index, op.name, key=ops.edge(index, op.name, numbers))
    ops.network.add_edge(table, op.name, argument="weight")
    ops.network.add_edge(index, op.name, argument="input")
    ops.add(replace(op, kind="embedding", attributes=()))
    return (op.name,)


def _from_product(context: Context, op: Op) -> Outcome:
    """Turn a product of a table and numbers that are 1 at one row and 0 elsewhere into an embedding."""
    ops, operands = context.ops, context.ops.operands(op.name)
    argument = "weight" if op.kind == "linear" else "other"
    plain = op.attributes == ((("axes", "i o"),) if op.kind == "linear" else ())
    if not plain or set(operands) != {"input", argument}:
        return "it is no product of a value and a table"
    ((value,), (table,)) = operands["input"], operands[argument]
    shape = ops.op(table).shape or ()
    index = _of_one_hot(context, value, shape[0]) if ops.op(table).kind == TENSOR and len(shape) == 2 else None
    if index is None:
        return "what the table is multiplied with is not 1 at one row and 0 elsewhere"
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    ops.network.add_edge(table, op.name, argument="weight")
    ops.network.add_edge(index, op.name, argument="input")
    ops.add(replace(op, kind="embedding", attributes=(), written=op.spelling))
    ops.drop_unread([value])
    return (op.name, index)


def _of_one_hot(context: Context, name: str, count: int) -> str | None:
    """Return the numbers of which a value is the one-hot form, also by comparison with all numbers."""
    ops = context.ops
    while has(ops.op(name).kind, Trait.MOVEMENT | Trait.IDENTITY) and list(ops.operands(name)) == ["input"]:
        (name,) = ops.operands(name)["input"]
    op, operands = ops.op(name), ops.operands(name)
    if op.kind == "one_hot" and op.attribute("num_classes") == count and list(operands) == ["input"]:
        return operands["input"][0]
    if op.kind == "scatter" and set(operands) == {"input", "index"} and op.attributes == (("value", 1),):
        ((filled,), (index,)) = operands["input"], operands["index"]
        return index if number_of(context, filled) == 0 else None
    both = [producer for names in operands.values() for producer in names]
    if op.kind == "eq" and len(both) == 2 and not op.attributes:
        for index, numbers in (both, both[::-1]):
            value = context.folded(ops.op(numbers).output)
            if value is not None and torch.equal(value.flatten(), torch.arange(count)):
                return index
    return None


PRODUCT_TO_EMBEDDING = Rule("one-hot products as embeddings", frozenset({"linear", "matmul"}), _from_product)


INDEX_TO_EMBEDDING = Rule("rows of a table as an embedding", kinds(Trait.INDEX), _to_embedding)
