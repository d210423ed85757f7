"""Nodes of quantized graphs: predicates for those that quantize, dequantize or compute in int8, and their tensors."""

from typing import Any

from torch import Tensor, fx, nn

from fxmap.forms.graph_weights import graph_weight

# Functions of torch and of quantized_decomposed, and the method `x.dequantize()`.
_BORDERS = {
    "quantize_per_tensor",
    "quantize_per_channel",
    "quantize_per_tensor_dynamic",
    "dequantize",
    "dequantize_per_tensor",
    "dequantize_per_channel",
}


def tensor_at(module: nn.Module, target: str) -> Tensor:
    """Return a parameter or buffer by its path."""
    owner, _, attribute = target.rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(owner), attribute)
    return tensor


def set_tensor(module: nn.Module, target: str, value: Tensor) -> None:
    """Replace a parameter or buffer, by its path; a parameter will not require gradients."""
    owner, _, attribute = target.rpartition(".")
    holder = module.get_submodule(owner)
    if attribute in holder._parameters:
        holder._parameters[attribute] = nn.Parameter(value, requires_grad=False)
    else:
        holder._buffers[attribute] = value


def remove_tensor(module: fx.GraphModule, target: str) -> None:
    """Remove a parameter or buffer from a module, by its path."""
    owner, _, attribute = target.rpartition(".")
    for tensors in (module.get_submodule(owner)._buffers, module.get_submodule(owner)._parameters):
        tensors.pop(attribute, None)


def quantizes_activation(node: fx.Node) -> bool:
    """Whether a node of `quantized_decomposed` quantizes an activation, and not a weight."""
    return border(node) == "quantize_per_tensor" and graph_weight(node) is None


def quantized_name(node: fx.Node) -> str | None:
    """Return the name of the function of torch.ops.quantized that a node calls; None for other nodes.

    >>> import torch
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


def is_observer(module: nn.Module) -> bool:
    """Whether a module is an observer or fake quantizer of torch.ao or torchao, neither of which is imported for it."""
    return any(
        kind.__name__ in ("ObserverBase", "FakeQuantizeBase") and kind.__module__.split(".")[0] in ("torch", "torchao")
        for kind in type(module).__mro__
    )


def bound_arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a function of torch.ops.quantized by name, in the order of its schema."""
    packet: Any = node.target
    schema = getattr(packet, "_schema", None) or getattr(packet, packet.overloads()[0])._schema
    names = [argument.name for argument in schema.arguments]
    bound = dict(zip(names, node.args, strict=False)) | node.kwargs
    return {name: bound[name] for name in names if name in bound}


def drop_dead_reads(graph: fx.Graph) -> None:
    """Erase the `get_attr` nodes of a graph that have no users."""
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
