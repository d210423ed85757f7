"""The float twin of a graph: what a GraphModule that torch made for quantization computes, without the quantization.

A graph of prepare_fx, convert_fx, prepare_pt2e or convert_pt2e is a float graph with nodes added or replaced:

    observer(x), fake_quantize(x), quantize(x, scale, zero_point), dequantize(x)  ->  x
    quantized.add_relu(a, b, scale, zero_point)                                   ->  relu(add(a, b))

What the removed nodes alone read (scales, zero points) leaves the twin with them.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxmap.errors import QuantizationError
from fxmap.expressions.functions import dequantized
from fxmap.forms.exported import GraphWeight, evaluate, graph_weight, unscale_convolutions
from fxmap.forms.sites import Site

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


@dataclass(frozen=True)
class Rewritten:
    """A rewritten graph module, and what left its graph.

    `ranges` are the paths of the tensors that only removed nodes read, `literals` the nodes that quantize activations with
    numbers of their own, and `weights` those that the graph quantizes or dequantizes; `exported` says that its operations
    are those of torch.export. `sites` are the places where activations are quantized, by identities that mark them.
    """

    module: fx.GraphModule
    ranges: frozenset[str]
    literals: tuple[str, ...]
    weights: tuple[GraphWeight, ...]
    exported: bool
    sites: tuple[Site, ...] = ()


def rewrite(replica: fx.GraphModule, path: str, *, marked: bool = False, stays: bool = False) -> Rewritten:
    """Give a replica of a graph module a graph of its own, in float; the original keeps its graph and its class.

    Args:
        replica: whose modules are those of a twin already: observers are identities.
        path: of the module in the model, for messages.
        marked: put an identity where the graph quantizes an activation; with `stays`, also a stub where it dequantizes one.

    Raises:
        QuantizationError: the graph calls a quantized function without a float counterpart here.
    """
    original = replica.graph
    weights = tuple(weight for node in original.nodes if (weight := graph_weight(node)) is not None)
    parts = {part for weight in weights for part in (weight.scale, weight.zero_point) if isinstance(part, str)}
    removed = {str(node.target) for node in original.nodes if node.op == "get_attr" and _is_range(node)}
    literals = tuple(node.name for node in original.nodes if _has_literal_range(node))
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(original, copies))
    marks: dict[str, nn.Module] = {}
    sites: list[Site] = []
    for own, node in copies.items():
        site = _site(own, f"_range_{len(sites)}") if marked else None
        if site is not None:
            marks[site.path] = nn.Identity()
            sites.append(site)
            _mark(graph, node, site.path)
        elif stays and border(node) == "dequantize":
            marks[name := f"_float_{len(marks)}"] = _stub()
            _mark(graph, node, name)
        if border(node) is not None or _is_identity(replica, node):
            _bypass(graph, node)
        elif (function := quantized_name(node)) is not None:
            _compute_in_float(graph, node, function, path)
    exported = any(getattr(node.target, "namespace", "") == "aten" for node in graph.nodes)
    if exported:
        evaluate(graph)
        unscale_convolutions(graph)
    drop_dead_reads(graph)
    twin = fx.GraphModule(nn.Module(), fx.Graph())
    vars(twin).update({name: value for name, value in vars(replica).items() if name not in ("_graph", "_code")})
    for name, mark in marks.items():
        twin.add_module(name, mark)
    twin.graph = graph
    for weight in weights:
        _read_in_float(twin, replica, weight)
    for target in removed:
        _remove(twin, target)
    return Rewritten(twin, frozenset(removed - parts), literals, weights, exported, tuple(sites))


def _mark(graph: fx.Graph, node: fx.Node, name: str) -> None:
    """Let what reads a node read it through a module of the twin."""
    with graph.inserting_after(node):
        mark = graph.call_module(name, ())
    node.replace_all_uses_with(mark)
    mark.args = (node,)


def _stub() -> nn.Module:
    from torch.ao.quantization import DeQuantStub

    stub: nn.Module = DeQuantStub()
    return stub


def _site(node: fx.Node, path: str) -> Site | None:
    """Return how a node quantizes an activation; None where it does not, or where its range is computed."""
    integers: Any = ()
    if quantizes_activation(node) and len(node.args) > 3:
        scale, zero_point, *integers = (_read(value) for value in node.args[1:])
    elif quantized_name(node) is not None:
        bound = _bound(node)
        scale, zero_point = (_read(bound.get(name, bound.get(f"output_{name}"))) for name in ("scale", "zero_point"))
    else:
        return None
    if not isinstance(scale, str | float) or not isinstance(zero_point, str | int):
        return None
    site = Site.of(path, scale, zero_point, integers[-1] if integers else torch.quint8)
    if len(integers) == 3:
        site = replace(site, low=integers[0], high=integers[1])
    return site if isinstance(scale, str) else replace(site, node=node.name)


def _read(value: Any) -> Any:
    """Return the path of a tensor that a graph reads; other values as they are."""
    return str(value.target) if isinstance(value, fx.Node) and value.op == "get_attr" else value


def tensor_at(module: nn.Module, target: str) -> Tensor:
    """Return a parameter or buffer by its path."""
    owner, _, attribute = target.rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(owner), attribute)
    return tensor


def set_tensor(module: nn.Module, target: str, value: Tensor) -> None:
    """Put a value in the place of a parameter or buffer, by its path; a parameter does not require gradients."""
    owner, _, attribute = target.rpartition(".")
    holder = module.get_submodule(owner)
    if attribute in holder._parameters:
        holder._parameters[attribute] = nn.Parameter(value, requires_grad=False)
    else:
        holder._buffers[attribute] = value


def divisors(model: nn.Module) -> list[str]:
    """Return the keys of the weights of batch norms by which a model that was prepared for QAT divides, in every forward.

    Such a model scales the weight of a layer by its norm before it is fake-quantized, and divides the result by the scale.
    Eager and FX mode have modules for it; an exported graph reads the weight of the norm once more for that.
    """
    found: list[str] = []
    for path, part in model.named_modules():
        prefix = f"{path}." if path else ""
        if type(part).__module__.startswith("torch.ao.nn.intrinsic.qat.") and isinstance(part._modules.get("bn"), nn.Module):
            found.append(f"{prefix}bn.weight")
        elif isinstance(part, fx.GraphModule):
            found += [f"{prefix}{name}" for name in _divisors(part.graph)]
    return found


def _divisors(graph: fx.Graph) -> Iterator[str]:
    for node in graph.nodes:
        weight = node.args[1] if node.target is torch.ops.aten.batch_norm.default else None
        if isinstance(weight, fx.Node) and any(user.target is torch.ops.aten.div.Tensor for user in weight.users):
            yield str(weight.target)


def _is_range(node: fx.Node) -> bool:
    """Whether a tensor only says how others are quantized."""
    return bool(node.users) and all(
        (border(user) is not None and user.args[0] is not node) or quantized_name(user) is not None for user in node.users
    )


def quantizes_activation(node: fx.Node) -> bool:
    """Whether a node of `quantized_decomposed` quantizes an activation, and not a weight."""
    return border(node) == "quantize_per_tensor" and graph_weight(node) is None


def _has_literal_range(node: fx.Node) -> bool:
    return quantizes_activation(node) and not isinstance(node.args[1], fx.Node)


def _remove(module: fx.GraphModule, target: str) -> None:
    owner, _, attribute = target.rpartition(".")
    for tensors in (module.get_submodule(owner)._buffers, module.get_submodule(owner)._parameters):
        tensors.pop(attribute, None)


def _read_in_float(twin: fx.GraphModule, replica: fx.GraphModule, weight: GraphWeight) -> None:
    """Give the twin a weight in float where the graph reads integers."""
    integers = tensor_at(replica, weight.target)
    if integers.is_floating_point():
        return
    scale, zero_point = (
        tensor_at(replica, part) if isinstance(part, str) else torch.tensor([part])
        for part in (weight.scale, weight.zero_point)
    )
    value = dequantized(integers, scale.detach(), zero_point, weight.axis)
    _remove(twin, weight.target)
    owner, _, attribute = weight.target.rpartition(".")
    twin.get_submodule(owner)._parameters[attribute] = nn.Parameter(value, requires_grad=False)


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


def is_observer(module: nn.Module) -> bool:
    """Whether a module is an observer or fake quantizer of torch.ao or torchao, neither of which is imported for it."""
    return any(
        kind.__name__ in ("ObserverBase", "FakeQuantizeBase") and kind.__module__.split(".")[0] in ("torch", "torchao")
        for kind in type(module).__mro__
    )


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
    for name, value in _bound(node).items():
        if name not in _RANGES:
            yield value


def _bound(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a function of torch.ops.quantized by name, in the order of its schema."""
    packet: Any = node.target
    schema = getattr(packet, "_schema", None) or getattr(packet, packet.overloads()[0])._schema
    names = [argument.name for argument in schema.arguments]
    bound = dict(zip(names, node.args, strict=False)) | node.kwargs
    return {name: bound[name] for name in names if name in bound}


def drop_dead_reads(graph: fx.Graph) -> None:
    """Take reads of tensors out of a graph that nothing uses."""
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
