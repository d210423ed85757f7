"""Fill a converted graph of torchao's PT2E: integers of weights in its state dict, ranges of activations in its code.

convert_pt2e replaces every observer by a pair of nodes, `dequantize(quantize(x, scale, zero_point))`, whose numbers are
literals, and leaves the rest of the graph as it was. So the graph itself says where its observers were: fresh ones take the
place of the pairs, those that shared a range share an observer again, and the batches run through the float graph between
them, as they did when it was made.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn

from fxmap.expressions.base import Expression
from fxmap.forms.eager import fill_twin, run
from fxmap.forms.exported import graph_weight
from fxmap.forms.graph import border, drop_dead_reads, is_observer, quantizes_activation, set_tensor, tensor_at
from fxmap.forms.twin import Twin, float_twin

Literals = dict[fx.Node, tuple[float, int]]


@dataclass(frozen=True)
class Refilled:
    """A state dict, and for the nodes of the graph that have a range of their own, scale and zero point."""

    state: dict[str, Any]
    literals: Literals

    def write(self, dst: nn.Module) -> Literals:
        """Write the literals into a graph, and return what they were."""
        before: Any = {node: (node.args[1], node.args[2]) for node in self.literals}
        rewrite_literals(dst, self.literals)
        literals: Literals = before
        return literals


def rewrite_literals(dst: nn.Module, literals: Literals) -> None:
    """Give nodes other scales and zero points, and compile the graph anew."""
    for node, (scale, zero_point) in literals.items():
        node.args = (node.args[0], scale, zero_point, *node.args[3:])
    if literals and isinstance(dst, fx.GraphModule):
        dst.recompile()


def refill(
    dst: fx.GraphModule,
    expressions: Mapping[str, Expression],
    state: Mapping[str, Any],
    batches: Iterable[Any] | None,
    observer: Any = None,
    kept: frozenset[str] = frozenset(),
    ranges: Mapping[str, tuple[Expression, Expression]] = MappingProxyType({}),
) -> Refilled:
    """Make the state dict and the literals of a converted graph from mapped weights; `dst` is not changed.

    Args:
        dst: a graph of convert_pt2e.
        expressions, state, kept: as in `calibrate.calibrated_state`.
        batches: calibration data; without it, ranges of activations stay, and literals of weights alone are made.
        observer: makes the observers of activations; by default those that the graph remembers.
        ranges: without batches, scales and zero points of activations that an int8 source gives, by the name of the node.

    Raises:
        QuantizationError: there are no batches, the model refuses one, or a range is not found.
    """
    own = dst.state_dict()
    made = {key: expression.evaluate(state) for key, expression in expressions.items()}
    full = {key: value if key in kept else made.get(key, value) for key, value in own.items()}
    literals = dict(_weight_literals(dst, expressions, state, kept))
    if batches is not None:
        literals |= _observed(dst, expressions, state, batches, observer)
    else:
        literals |= _given(dst, ranges, state)
    return Refilled(full, literals)


def _given(dst: fx.GraphModule, ranges: Mapping[str, tuple[Expression, Expression]], state: Mapping[str, Any]) -> Literals:
    """Return the literals of the nodes whose ranges are given, and of those that dequantize what they quantize."""
    literals: Literals = {}
    for node in dst.graph.nodes:
        if node.name in ranges:
            scale, zero_point = (part.evaluate(state) for part in ranges[node.name])
            literals |= dict.fromkeys(_sharing(node), (float(scale), int(zero_point)))
    return literals


def _sharing(node: fx.Node) -> tuple[fx.Node, ...]:
    """Return a node that quantizes, and those that dequantize its result, by the same numbers."""
    return (node, *(user for user in node.users if border(user) is not None))


def _weight_literals(
    dst: fx.GraphModule, expressions: Mapping[str, Expression], state: Mapping[str, Any], kept: frozenset[str]
) -> Iterator[tuple[fx.Node, tuple[float, int]]]:
    """Yield the scale and zero point of every weight whose graph has them as numbers."""
    for node in dst.graph.nodes:
        weight = graph_weight(node)
        if weight is None or isinstance(weight.scale, str) or weight.target in kept or weight.target not in expressions:
            continue
        quantized = weight.scheme(None).quantize(expressions[weight.target].evaluate(state, quantized=False))
        for user in [node, *node.users]:
            if border(user) is not None:
                yield user, (quantized.q_scale(), quantized.q_zero_point())


def _observed(
    dst: fx.GraphModule,
    expressions: Mapping[str, Expression],
    state: Mapping[str, Any],
    batches: Iterable[Any],
    observer: Any,
) -> Literals:
    twin = float_twin(dst)
    fill_twin(twin, expressions, state)
    module = fx.GraphModule(nn.Module(), fx.Graph())
    vars(module).update({name: value for name, value in vars(twin.module).items() if name not in ("_graph", "_code")})
    observers: dict[fx.Node, nn.Module] = {}
    for index, group in enumerate(shared_ranges(dst.graph)):
        common = make_observer(group, observer)
        module.add_module(f"range_{index}", common)
        observers |= dict.fromkeys(group, common)
    _round_weights(dst, twin)
    module.graph = _with_observers(dst.graph, {observer: path for path, observer in module.named_children()}, observers)
    run(module, batches)
    literals: Literals = {}
    for node, found in observers.items():
        calculate: Any = found.calculate_qparams
        scale, zero_point = calculate()
        literals |= dict.fromkeys(_sharing(node), (float(scale), int(zero_point)))
    return literals


def _round_weights(dst: fx.GraphModule, twin: Twin) -> None:
    """Round the weights of the twin of a model that was prepared for QAT, which shows its ranges what is rounded."""
    for weight in filter(None, map(graph_weight, dst.graph.nodes)):
        rounding = _made(weight.specification())
        if hasattr(rounding, "fake_quant_enabled"):
            with torch.no_grad():
                set_tensor(twin.module, weight.target, rounding(tensor_at(twin.module, weight.target)))


def _made(spec: Any) -> Any:
    """Make the observer or fake-quant of a specification; None without one."""
    if spec is None:
        return None
    names = ["dtype", "quant_min", "quant_max", "qscheme"] + ["ch_axis"] * ("per_channel" in str(spec.qscheme))
    options = {name: value for name in names if (value := getattr(spec, name)) is not None}
    return spec.observer_or_fake_quant_ctr(**options)


def _with_observers(original: fx.Graph, paths: Mapping[nn.Module, str], observers: Mapping[fx.Node, nn.Module]) -> fx.Graph:
    """Return the float graph, with an observer in the place of every node that quantizes an activation."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(original, copies))
    for node, copy in copies.items():
        observed = observers.get(node)
        if observed is None and border(node) is None and node.target != "_guards_fn":
            continue
        value = copy.args[0]
        assert isinstance(value, fx.Node)
        if observed is not None:
            with graph.inserting_before(copy):
                value = graph.call_module(paths[observed], (value,))
        copy.replace_all_uses_with(value)
        graph.erase_node(copy)
    drop_dead_reads(graph)
    return graph


def shared_ranges(graph: fx.Graph) -> Iterator[list[fx.Node]]:
    """Yield the nodes that quantize activations, those together that shared an observer, in the order of the graph.

    Ranges are shared across an operation that moves values (a pool, a concatenation, a flatten): its result and its inputs
    then have the same literals, which two observers of different values never have.
    """
    leaders: dict[fx.Node, fx.Node] = {}

    def leader(node: fx.Node) -> fx.Node:
        while leaders[node] is not node:
            node = leaders[node]
        return node

    quantizing = [node for node in graph.nodes if quantizes_activation(node)]
    for node in quantizing:
        leaders[node] = node
        for operand in _quantized_inputs(node):
            if operand in leaders and operand.args[1:] == node.args[1:]:
                leaders[leader(node)] = leader(operand)
    groups: dict[fx.Node, list[fx.Node]] = {}
    for node in quantizing:
        groups.setdefault(leader(node), []).append(node)
    yield from groups.values()


def _quantized_inputs(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the quantizing nodes before the operation whose result a node quantizes."""
    operation = node.args[0]
    for operand in operation.all_input_nodes if isinstance(operation, fx.Node) else ():
        if border(operand) == "dequantize_per_tensor" and isinstance(operand.args[0], fx.Node):
            yield operand.args[0]


def make_observer(group: list[fx.Node], given: Any) -> nn.Module:
    """Make the observer, or fake-quant, of one range: as given, or as the annotations of the graph say, or a histogram."""
    if given is not None:
        made: nn.Module = given()
        return made
    from torchao.quantization.pt2e import HistogramObserver

    node = group[0]
    _, _, _, low, high, dtype = node.args
    for candidate in group:
        found = _made(_specification(candidate))
        if isinstance(found, nn.Module) and is_observer(found):
            return found
    default: nn.Module = HistogramObserver(
        dtype=dtype, quant_min=low, quant_max=high, qscheme=torch.per_tensor_affine, eps=2**-12
    )
    return default


def _specification(node: fx.Node) -> Any:
    """Return the specification that an operation around a range was annotated with; None if none is left."""
    producer = node.args[0]
    outer = (
        getattr(producer.meta.get("quantization_annotation"), "output_qspec", None)
        if isinstance(producer, fx.Node)
        else None
    )
    if hasattr(outer, "observer_or_fake_quant_ctr"):
        return outer
    for reader in (user for border_node in node.users for user in border_node.users):
        inner = getattr(reader.meta.get("quantization_annotation"), "input_qspec_map", {})
        for operand, spec in inner.items():
            if operand.name == getattr(producer, "name", "") and hasattr(spec, "observer_or_fake_quant_ctr"):
                return spec
    return None
