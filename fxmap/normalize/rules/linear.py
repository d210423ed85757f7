"""addmm(b, x, t(w)) = linear(x, w, b), and mm(x, t(w)) = linear(x, w).

Holds for every input: it is how torch computes a linear layer. The weight is `o i`, read through one transposition; where
it is read as it is, it is `i o` (GPT-2's Conv1D), which the attribute "axes" says.

linear(x, w) + b = linear(x, w, b), where b has one number for each output channel and nothing else reads the product.
"""

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, fx

from fxmap.graph.affine import affine_shape
from fxmap.graph.constants import call
from fxmap.graph.kinds import Trait, has, kinds
from fxmap.graph.opgraph import TENSOR, Op, OpGraph
from fxmap.normalize.rule import Context, Outcome, Rule

_TRANSPOSITION = Trait.PERMUTE | Trait.TRANSPOSE


def _restore(context: Context, op: Op) -> Outcome:
    """Turn a matrix product with a parameter, transposed or not, back into a linear layer."""
    ops, read = context.ops, _weight(context, op.name)
    if isinstance(read, str):
        return read
    matrix, weight, transposed = read
    ops.network.remove_edge(matrix, op.name, key=ops.edge(matrix, op.name, "mat2"))
    ops.network.add_edge(weight, op.name, argument="weight")
    attributes = op.attributes if transposed else (*op.attributes, ("axes", "i o"))
    ops.add(replace(op, kind="linear", attributes=attributes))
    return (op.name, weight, *ops.drop_unread([matrix] if matrix != weight else []))


def _weight(context: Context, name: str) -> tuple[str, str, bool] | str:
    """Return a product's matrix, the parameter that it is, and whether that is transposed; or why it is no parameter."""
    ops = context.ops
    (matrix,) = ops.operands(name).get("mat2", [""])
    if not matrix:
        return "it has no second matrix"
    source = matrix
    while has(ops.op(source).kind, Trait.MOVEMENT) and list(ops.operands(source)) == ["input"]:
        (source,) = ops.operands(source)["input"]
    if ops.op(source).kind != TENSOR:
        return "its second matrix is computed from inputs"
    shape = ops.op(source).shape or ()
    if len(shape) != 2:
        return "its second matrix is a tensor of other rank"
    if source == matrix:
        return matrix, source, False
    step = ops.op(matrix)
    if has(step.kind, _TRANSPOSITION) and ops.operands(matrix)["input"] == [source]:
        return matrix, source, True
    moved, numbers = _moved(context, step.output, shape), torch.arange(math.prod(shape)).view(shape)
    if moved is None or moved.shape not in (numbers.shape, numbers.t().shape):
        return "how its second matrix follows from a parameter is not known"
    if torch.equal(moved, numbers.t()):
        return matrix, source, True
    return (matrix, source, False) if torch.equal(moved, numbers) else "its second matrix holds a parameter in another order"


def _moved(context: Context, name: str, shape: tuple[int, ...]) -> Tensor | None:
    """Return the numbers of a parameter's elements, moved as an fx node moves the parameter."""
    path, node = list[fx.Node](), context.nodes[name]
    while node.op != "get_attr" and len(node.all_input_nodes) == 1:
        path.append(node)
        (node,) = node.all_input_nodes
    value = torch.arange(math.prod(shape)).view(shape)
    try:
        for step in reversed(path):
            value = call(step, partial(_given, value))
    except (RuntimeError, TypeError, AttributeError):
        return None
    return value if node.op == "get_attr" else None


def _given(value: Tensor, _: fx.Node) -> Tensor:
    return value


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
