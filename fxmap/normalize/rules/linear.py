"""addmm(b, x, t(w)) = linear(x, w, b), and mm(x, t(w)) = linear(x, w).

Holds for every input: it is how torch computes a linear layer. The weight is `o i`, read through one transposition; where
it is read as it is, it is `i o` (GPT-2's Conv1D), which the attribute "axes" says.

linear(x, w) + b = linear(x, w, b), where b has one number for each output channel and nothing else reads the product.
"""

from dataclasses import replace

from fxmap.graph.affine import affine_shape
from fxmap.graph.kinds import Trait, has, kinds
from fxmap.graph.opgraph import TENSOR, Op, OpGraph
from fxmap.normalize.rule import Context, Outcome, Rule

_TRANSPOSITION = Trait.PERMUTE | Trait.TRANSPOSE


def _restore(context: Context, op: Op) -> Outcome:
    """Turn a matrix product with a parameter, transposed or not, back into a linear layer."""
    ops, read = context.ops, _weight(context.ops, op.name)
    if isinstance(read, str):
        return read
    matrix, weight = read
    ops.network.remove_edge(matrix, op.name, key=ops.edge(matrix, op.name, "mat2"))
    ops.network.add_edge(weight, op.name, argument="weight")
    attributes = op.attributes if matrix != weight else (*op.attributes, ("axes", "i o"))
    ops.add(replace(op, kind="linear", attributes=attributes))
    if matrix != weight and not ops.users(matrix):
        ops.network.remove_node(matrix)
    return op.name, matrix, weight


def _weight(ops: OpGraph, name: str) -> tuple[str, str] | str:
    """Return a product's matrix and the parameter that it is, transposed or not; or the reason why it is no parameter."""
    (matrix,) = ops.operands(name).get("mat2", [""])
    if not matrix:
        return "it has no second matrix"
    source = matrix
    if has(ops.op(matrix).kind, _TRANSPOSITION):
        (source,) = ops.operands(matrix)["input"]
    if ops.op(source).kind != TENSOR:
        return "its second matrix is computed from inputs"
    return (matrix, source) if len(ops.op(source).shape or ()) == 2 else "its second matrix is a tensor of other rank"


def _merge_bias(context: Context, op: Op) -> Outcome:
    """Give a linear layer the bias that is added behind it."""
    ops, parts = context.ops, _added_bias(context.ops, op.name)
    if isinstance(parts, str):
        return parts
    layer, between, bias = parts
    ops.add(replace(ops.op(layer), output=op.output))
    ops.network.add_edge(bias, layer, argument="bias")
    users = ops.substitute(op.name, layer)
    ops.network.remove_nodes_from(between)
    return (layer, bias, *users)


def _added_bias(ops: OpGraph, name: str) -> tuple[str, list[str], str] | str:
    """Return the layer, the movement between it and the sum, and the bias; or why there is none."""
    operands = ops.operands(name).get("input", [])
    biases = [producer for producer in operands if ops.op(producer).kind == TENSOR]
    if len(operands) != 2 or len(biases) != 1:
        return "it does not add one tensor of the state dict to one value"
    (layer,) = set(operands) - set(biases)
    between: list[str] = []
    while has(ops.op(layer).kind, Trait.VIEW) and len(ops.users(layer)) == 1:
        between.append(layer)
        (layer,) = ops.operands(layer)["input"]
    tensors = ops.tensors(layer)
    if ops.op(layer).kind != "linear" or "weight" not in tensors:
        return "what the tensor is added to is no linear layer"
    if "bias" in tensors:
        return "the layer has a bias already"
    if len(ops.users(layer)) != 1:
        return "the layer's output has other consumers"
    channels = affine_shape(ops.op(layer), tensors["weight"])[0]
    return (layer, between, biases[0]) if ops.op(biases[0]).shape == (channels,) else "it is not one number a channel"


RESTORE_LINEAR = Rule("restore linear layers", kinds(Trait.MATRIX_PRODUCT), _restore)


MERGE_ADDED_BIAS = Rule("merge added biases", frozenset({"add"}), _merge_bias)
