"""The float twin of a graph: what a GraphModule that torch made for quantization computes, without the quantization.

A graph of prepare_fx, convert_fx, prepare_pt2e or convert_pt2e is a float graph with nodes added or replaced:

    observer(x), fake_quantize(x), quantize(x, scale, zero_point), dequantize(x)  ->  x
    quantized.add_relu(a, b, scale, zero_point)                                   ->  relu(add(a, b))

What the removed nodes alone read (scales, zero points) leaves the twin with them.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxmap.errors import QuantizationError

# Arguments of torch.ops.quantized that say how the result is quantized.
_RANGES = ("scale", "zero_point", "output_scale", "output_zero_point")
# What the functions of torch.ops.quantized compute; the arguments that are left are the float function's, in its order.
_FLOAT: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "mul": operator.mul,
    "matmul": torch.matmul,
    "cat": torch.cat,
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "leaky_relu": F.leaky_relu,
    "prelu": F.prelu,
    "softmax": F.softmax,
    "layer_norm": F.layer_norm,
    "group_norm": F.group_norm,
}
_QUANTIZE = {"quantize_per_tensor", "quantize_per_channel", "quantize_per_tensor_dynamic"}
_BORDERS = _QUANTIZE | {"dequantize", "dequantize_per_tensor", "dequantize_per_channel"}


@dataclass
class Rewritten:
    """A rewritten graph module, and what left it: the paths of the tensors that only removed nodes read."""

    module: fx.GraphModule
    ranges: set[str] = field(default_factory=set)


def rewrite(replica: fx.GraphModule, path: str) -> Rewritten:
    """Give a replica of a graph module a graph of its own, in float; the original keeps its graph and its class.

    Args:
        replica: whose modules are those of a twin already: observers are identities.
        path: of the module in the model, for messages.

    Raises:
        QuantizationError: the graph calls a quantized function without a float counterpart here.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(replica.graph, copies)
    graph.output(output)
    read = _tensors(graph)
    for node in list(graph.nodes):
        if border(node) is not None or _is_identity(replica, node):
            _bypass(graph, node)
        elif (name := quantized_name(node)) is not None:
            _compute_in_float(graph, node, name, path)
    _drop_dead_reads(graph)
    twin = fx.GraphModule(nn.Module(), fx.Graph())
    # Instance attributes of exported modules forbid train() and eval(), which do nothing to a graph.
    own = {name: value for name, value in vars(replica).items() if name not in ("_graph", "_code", "train", "eval")}
    vars(twin).update(own)
    twin.graph = graph
    lost = read - _tensors(graph)
    for target in lost:
        owner, _, attribute = target.rpartition(".")
        for tensors in (twin.get_submodule(owner)._buffers, twin.get_submodule(owner)._parameters):
            tensors.pop(attribute, None)
    return Rewritten(twin, lost)


def quantized_name(node: fx.Node) -> str | None:
    """Return which function of torch.ops.quantized a node calls; None if none.

    >>> graph = fx.Graph()
    >>> x = graph.placeholder("x")
    >>> quantized_name(graph.call_function(torch.ops.quantized.add_relu, (x, x, 1.0, 0)))
    'add_relu'
    """
    if node.op != "call_function":
        return None
    packet = getattr(node.target, "overloadpacket", node.target)
    qualified = getattr(packet, "_qualified_op_name", "")
    return qualified.partition("::")[2] if qualified.startswith("quantized::") else None


def border(node: fx.Node) -> str | None:
    """Return the name of a node that quantizes or dequantizes a tensor; None for others."""
    if node.op == "call_method":
        name = str(node.target)
    elif node.op == "call_function":
        name = getattr(getattr(node.target, "overloadpacket", node.target), "__name__", "")
    else:
        return None
    return name if name in _BORDERS else None


def _is_identity(replica: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node calls an identity, or a check of the inputs' shapes that torch.export leaves behind."""
    if node.op != "call_module":
        return False
    return node.target == "_guards_fn" or isinstance(replica.get_submodule(str(node.target)), nn.Identity)


def _bypass(graph: fx.Graph, node: fx.Node) -> None:
    if node.args and isinstance(node.args[0], fx.Node):
        node.replace_all_uses_with(node.args[0])
    graph.erase_node(node)


def _compute_in_float(graph: fx.Graph, node: fx.Node, name: str, path: str) -> None:
    plain = name.removesuffix("_relu")
    function = _FLOAT.get(plain)
    if function is None:
        raise QuantizationError(
            f"{path or 'the graph'}: {node.name} calls torch.ops.quantized.{name}, whose float counterpart is not known; "
            "known are " + ", ".join(_FLOAT)
        )
    args = tuple(_plain_arguments(node))
    with graph.inserting_before(node):
        result = graph.call_function(function, args)
        if plain != name:
            result = graph.call_function(F.relu, (result,))
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _plain_arguments(node: fx.Node) -> Iterator[Any]:
    packet: Any = node.target
    schema = getattr(packet, "_schema", None) or getattr(packet, packet.overloads()[0])._schema
    names = [argument.name for argument in schema.arguments]
    bound = dict(zip(names, node.args, strict=False)) | node.kwargs
    for name in names:
        if name in bound and name not in _RANGES:
            yield bound[name]


def _drop_dead_reads(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)


def _tensors(graph: fx.Graph) -> set[str]:
    return {str(node.target) for node in graph.nodes if node.op == "get_attr"}
