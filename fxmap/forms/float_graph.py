"""The float twin of a GraphModule that torch prepared or converted: the same graph without its quantizing nodes.

A graph of prepare_fx, convert_fx, prepare_pt2e or convert_pt2e is a float graph with nodes added or replaced:

    observer(x), fake_quantize(x), quantize(x, scale, zero_point), dequantize(x)  ->  x
    quantized.add_relu(a, b, scale, zero_point)                                   ->  relu(add(a, b))

Tensors that only the removed nodes read (scales, zero points) are removed with them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from fxmap.errors import QuantizationError
from fxmap.expressions.functions import dequantized
from fxmap.forms.conversion import Within, rewrite_nodes
from fxmap.forms.form import Form
from fxmap.forms.graph_nodes import (
    border,
    bound_arguments,
    drop_dead_reads,
    quantized_name,
    quantizes_activation,
    remove_tensor,
    tensor_at,
)
from fxmap.forms.graph_weights import GraphWeight, float_copy, graph_weight
from fxmap.forms.sites import Site
from fxmap.forms.store import COPY, Store


@dataclass(frozen=True)
class FloatGraph:
    """A graph module rewritten to float, and the ranges, literals, weights and sites that were removed from its graph.

    `ranges` are the paths of the tensors that only removed nodes read, `literals` the nodes that quantize activations with
    numbers of their own, and `weights` those that the graph quantizes or dequantizes. `forms` are those that the
    graph is one of, `sites` the places where activations are quantized, by identities that mark them.
    """

    module: fx.GraphModule
    ranges: frozenset[str]
    literals: tuple[str, ...]
    weights: tuple[GraphWeight, ...]
    forms: frozenset[Form]
    sites: tuple[Site, ...] = ()

    def stores(self, prefix: str, state: Mapping[str, Any]) -> dict[str, Store]:
        """Return the stores of the graph's quantized weights: how the model's state dict, with a key prefix, holds them.

        Raises:
            QuantizationError: there are some, and the graph is not the model itself.
        """
        stores: dict[str, Store] = {}
        for weight in self.weights:
            if prefix:
                raise QuantizationError(f"{prefix}{weight.target}: a converted graph inside another model is not supported")
            stores |= _parts(weight, state)
            read = {str(node.target) for node in self.module.graph.nodes if node.op == "get_attr"}
            dead = {key: value for key, value in state.items() if key not in read and key not in stores}
            copy = float_copy(weight, tensor_at(self.module, weight.target), dead)
            if copy is not None:
                stores[copy] = Store(weight.target, part=COPY)
        return stores


def _parts(weight: GraphWeight, state: Mapping[str, Any]) -> dict[str, Store]:
    """Return the stores for integers, scales and zero points of a weight."""
    zero_point = state.get(weight.zero_point) if isinstance(weight.zero_point, str) else None
    scheme = weight.scheme(zero_point)
    stores: dict[str, Store] = {}
    if not state[weight.target].is_floating_point():
        stores[weight.target] = Store(weight.target, scheme=scheme, part="integers", beside=weight.parts())
    for key, part in ((weight.scale, "scales"), (weight.zero_point, "zero_points")):
        if isinstance(key, str):
            stores[key] = Store(weight.target, scheme=scheme, part=part)
    return stores


def float_graph(
    replica: fx.GraphModule,
    path: str,
    forms: Iterable[Form],
    *,
    marked: bool = False,
    stays: bool = False,
) -> FloatGraph:
    """Rewrite a replica of a graph module to float; the original keeps its graph and its class.

    Args:
        replica: a replica of the graph module, whose submodules are converted already: observers are identities.
        path: of the module in the model, for messages.
        forms: whose rules rewrite single nodes (`node_rules`), and then the whole graph (`finish`).
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
    marks, sites = _marks(copies, stays=stays) if marked else ({}, [])
    within = Within(replica, path)
    forms = tuple(forms)
    rewrite_nodes(copies.values(), [rule for form in forms for rule in form.node_rules], within)
    found = frozenset(form for form in forms if form.finish is not None and form.finish(graph, within))
    drop_dead_reads(graph)
    twin = fx.GraphModule(nn.Module(), fx.Graph())
    vars(twin).update({name: value for name, value in vars(replica).items() if name not in ("_graph", "_code")})
    for name, mark in marks.items():
        twin.add_module(name, mark)
    twin.graph = graph
    for weight in weights:
        _read_in_float(twin, replica, weight)
    for target in removed:
        remove_tensor(twin, target)
    return FloatGraph(twin, frozenset(removed - parts), literals, weights, found, tuple(sites))


def _marks(copies: Mapping[fx.Node, fx.Node], *, stays: bool) -> tuple[dict[str, nn.Module], list[Site]]:
    """Insert an identity behind every node that quantizes an activation, and a stub behind those that dequantize one.

    Returns the modules by their paths, and the places where activations are quantized.
    """
    marks: dict[str, nn.Module] = {}
    sites: list[Site] = []
    for own, node in copies.items():
        site = _site(own, f"_range_{len(sites)}")
        if site is not None:
            marks[site.path] = nn.Identity()
            sites.append(site)
            _mark(node, site.path)
        elif stays and border(node) == "dequantize":
            marks[name := f"_float_{len(marks)}"] = _stub()
            _mark(node, name)
    return marks, sites


def _mark(node: fx.Node, name: str) -> None:
    """Insert a call of a module of the twin between a node and its consumers."""
    with node.graph.inserting_after(node):
        mark = node.graph.call_module(name, ())
    node.replace_all_uses_with(mark)
    mark.args = (node,)


def _stub() -> nn.Module:
    from torch.ao.quantization import DeQuantStub

    stub: nn.Module = DeQuantStub()
    return stub


def _site(node: fx.Node, path: str) -> Site | None:
    """Return the site at which a node quantizes an activation; None where it does not, or where its range is computed."""
    integers: Any = ()
    if quantizes_activation(node) and len(node.args) > 3:
        scale, zero_point, *integers = (_read(value) for value in node.args[1:])
    elif quantized_name(node) is not None:
        bound = bound_arguments(node)
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
    """Return the path of a tensor that a graph reads; other values unchanged."""
    return str(value.target) if isinstance(value, fx.Node) and value.op == "get_attr" else value


def _is_range(node: fx.Node) -> bool:
    """Whether a tensor is read only as a scale or zero point."""
    return bool(node.users) and all(
        (border(user) is not None and user.args[0] is not node) or quantized_name(user) is not None for user in node.users
    )


def _has_literal_range(node: fx.Node) -> bool:
    return quantizes_activation(node) and not isinstance(node.args[1], fx.Node)


def _read_in_float(twin: fx.GraphModule, replica: fx.GraphModule, weight: GraphWeight) -> None:
    """Dequantize a weight that the graph reads as integers, and set it as a parameter of the twin."""
    integers = tensor_at(replica, weight.target)
    if integers.is_floating_point():
        return
    scale, zero_point = (
        tensor_at(replica, part) if isinstance(part, str) else torch.tensor([part])
        for part in (weight.scale, weight.zero_point)
    )
    value = dequantized(integers, scale.detach(), zero_point, weight.axis)
    remove_tensor(twin, weight.target)
    owner, _, attribute = weight.target.rpartition(".")
    twin.get_submodule(owner)._parameters[attribute] = nn.Parameter(value, requires_grad=False)
