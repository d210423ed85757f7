"""w[i] = embedding(i, w): rows of a table, by one index along its first axis.

Holds for every input without a row that pads, which only training treats in another way.
"""

from dataclasses import replace

from fxmap.graph.kinds import Trait, kinds
from fxmap.graph.opgraph import TENSOR, Op
from fxmap.normalize.rule import Context, Outcome, Rule

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


INDEX_TO_EMBEDDING = Rule("rows of a table as an embedding", kinds(Trait.INDEX), _to_embedding)
