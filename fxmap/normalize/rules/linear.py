"""addmm(b, x, t(w)) = linear(x, w, b), and mm(x, t(w)) = linear(x, w).

Holds for every input: it is how torch computes a linear layer. The weight is `o i`, read through one transposition; where
it is read as it is, it is `i o` (GPT-2's Conv1D), which the attribute "axes" says.

linear(x, w) + b = linear(x, w, b), where b has one number for each output channel and nothing else reads the product; so for
convolutions, and where the product and b are moved before they are added, such that each channel meets its number.
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
    value, node = _carried(context.nodes[name], "", torch.arange(math.prod(shape)).view(shape))
    return value if node.op == "get_attr" else None


def _carried(node: fx.Node, start: str, value: Tensor) -> tuple[Tensor | None, fx.Node]:
    """Return a value at the node `start`, moved as on the way to another node; and where that way begins."""
    path = list[fx.Node]()
    while node.name != start and node.op != "get_attr" and len(node.all_input_nodes) == 1:
        path.append(node)
        (node,) = node.all_input_nodes
    try:
        for step in reversed(path):
            value = call(step, partial(_given, value))
    except (RuntimeError, TypeError, AttributeError):
        return None, node
    return value, node


def _given(value: Tensor, _: fx.Node) -> Tensor:
    return value


def _merge_bias(context: Context, op: Op, moved_too: bool = False) -> Outcome:
    """Give a layer the bias that is added behind it. Before joined layers are split, channels have to stay on their axis."""
    ops, parts = context.ops, _added_bias(context, op.name, moved_too)
    if isinstance(parts, str):
        return parts
    layer, between, bias = parts
    moved = [name for name in ops.operands(op.name)["input"] if name not in (layer, bias, *between)]
    ops.add(replace(ops.op(layer), output=op.output))
    ops.network.add_edge(bias, layer, argument="bias")
    users = ops.substitute(op.name, layer)
    ops.network.remove_nodes_from(between)
    return (layer, bias, *users, *ops.drop_unread(moved))


def _added_bias(context: Context, name: str, moved_too: bool) -> tuple[str, list[str], str] | str:
    """Return the layer, the movement between it and the sum, and the bias; or why there is none."""
    ops, operands = context.ops, context.ops.operands(name).get("input", [])
    ways = {producer: _way(ops, producer) for producer in operands}
    biases = [producer for producer, way in ways.items() if ops.op(way[-1]).kind == TENSOR]
    if len(operands) != 2 or len(ways) != 2 or len(biases) != 1:
        return "it does not add one tensor of the state dict to one value"
    (moved,) = ways.keys() - set(biases)
    *between, layer = ways[moved]
    bias, tensors = ways[biases[0]][-1], ops.tensors(layer)
    if not has(ops.op(layer).kind, Trait.AFFINE) or "weight" not in tensors:
        return "what the tensor is added to is no affine layer"
    if "bias" in tensors or any(argument.startswith("norm.") for argument in tensors):
        return "the layer has a bias or a norm already"
    if any(len(ops.users(passed)) != 1 for passed in (*between, layer)):
        return "the layer's output has other consumers"
    channels = affine_shape(ops.op(layer), tensors["weight"])[0]
    if ops.op(bias).shape != (channels,):
        return "it is not one number a channel"
    viewed = bias in operands and all(has(ops.op(passed).kind, Trait.VIEW) for passed in between)
    plain = not moved_too and viewed and ops.op(layer).kind == "linear"
    if not plain and (ops.op(layer).rows is not None or not _meet(context, name, layer, bias, moved_too)):
        return "channels do not meet their own numbers, or not on their axis"
    return layer, between, bias


def _way(ops: OpGraph, name: str) -> list[str]:
    """Return a value and what it is moved from, up to what is not moved."""
    way = [name]
    while has(ops.op(way[-1]).kind, Trait.MOVEMENT) and list(ops.operands(way[-1])) == ["input"]:
        way.append(ops.operands(way[-1])["input"][0])
    return way


def _meet(context: Context, name: str, layer: str, bias: str, moved_too: bool) -> bool:
    """Whether a sum gives each channel of a layer its own number of a tensor, wherever these are moved."""
    ops, node = context.ops, context.nodes[name]
    made, weight = context.nodes.get(ops.op(layer).output), ops.tensors(layer)["weight"].shape or ()
    (channels,), rank = ops.op(bias).shape or (0,), len(weight) - 1
    shape = tuple(made.meta.get("shape", ())) if made is not None else ()
    if made is None or not all(isinstance(extent, int) for extent in shape) or len(shape) < rank:
        return False
    numbers = torch.arange(channels)
    try:
        spread = numbers.view(-1, *[1] * (rank - 1)).expand(shape)
    except RuntimeError:
        return False  # its rows are not on the axis of its channels
    carried = [_carried(part, made.name, spread if _leads(part, made) else numbers) for part in node.all_input_nodes]
    values = [value for value, _ in carried if value is not None]
    if len(values) != 2 or sorted(start is made for _, start in carried) != [False, True]:
        return False
    try:
        one, other = values[0] + torch.zeros_like(values[1]), values[1] + torch.zeros_like(values[0])
        kept = one.transpose(ops.op(layer).channel_axis, -1)
        kept_numbers = numbers.expand(kept.shape)
    except (RuntimeError, IndexError):
        return False
    return torch.equal(one, other) and (moved_too or torch.equal(kept, kept_numbers))


def _leads(node: fx.Node, start: fx.Node) -> bool:
    while node is not start and node.op != "get_attr" and len(node.all_input_nodes) == 1:
        (node,) = node.all_input_nodes
    return node is start


RESTORE_LINEAR = Rule("restore linear layers", kinds(Trait.MATRIX_PRODUCT), _restore)


MERGE_ADDED_BIAS = Rule("merge added biases", frozenset({"add"}), _merge_bias)


MERGE_MOVED_BIAS = Rule("merge moved biases", frozenset({"add"}), partial(_merge_bias, moved_too=True))
