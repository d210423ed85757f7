"""The form of torchao's PT2E: exported graphs with integers in their state dict, and ranges of activations in their code.

convert_pt2e replaces every observer by a pair of nodes, `dequantize(quantize(x, scale, zero_point))`, whose numbers are
literals, and leaves the rest of the graph as it was. So the graph itself says where its observers were: fresh ones take the
place of the pairs, those that shared a range share an observer again, and the batches run through the float graph between
them, as they did when it was made.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn

from fxmap.expressions.base import Expression
from fxmap.expressions.values import evaluated
from fxmap.forms import eager, fx_mode, stages
from fxmap.forms.conversion import Seen, Within
from fxmap.forms.eager import fill_twin
from fxmap.forms.exported import evaluate, is_exported
from fxmap.forms.fill import Filled, FillRequest, Literals, run
from fxmap.forms.form import Findings, Form, Twin
from fxmap.forms.graph_nodes import border, drop_dead_reads, is_observer, quantizes_activation, set_tensor, tensor_at
from fxmap.forms.graph_weights import graph_weight
from fxmap.forms.node_rules import DROP_BORDER, DROP_IDENTITY
from fxmap.forms.stages import Stage
from fxmap.graph.kinds import Trait, has, kind_of

# Operations that pool or join values, besides those that move them: quantizers let their results have the inputs' range.
_KEEP_THE_RANGE = {"max_pool", "avg_pool", "adaptive_avg_pool", "mean", "hardtanh", "cat"}


def _recognise(found: Findings) -> Stage | None:
    if PT2E not in found.forms:
        return None
    if found.has(Seen.RANGE):
        return stages.PT2E_CONVERTED
    if found.has(Seen.OBSERVER):
        return stages.PT2E_QAT if found.has(Seen.FAKE_QUANT) else stages.PT2E_PREPARED
    return None


def _finish(graph: fx.Graph, within: Within) -> bool:
    if is_exported(graph):
        evaluate(graph, within)
        return True
    return False


def _fill(twin: Twin, request: FillRequest) -> Filled:
    if not isinstance(request.dst, fx.GraphModule):
        return eager.fill(twin, request)
    return refill(twin, request) if twin.stage == stages.PT2E_CONVERTED else fx_mode.fill_observed(request)


def refill(twin: Twin, request: FillRequest) -> Filled:
    """Make the state dict and the literals of a converted graph from mapped weights.

    Without batches, ranges of activations are those that the request gives, or stay. Observers are by default those that the
    graph remembers.

    Raises:
        QuantizationError: there are no batches, the model refuses one, or a range is not found.
    """
    dst, expressions, state, kept = request.dst, request.expressions, request.state, request.kept
    assert isinstance(dst, fx.GraphModule)
    own = dst.state_dict()
    made = {key: evaluated(key, expression, state) for key, expression in expressions.items()}
    full = {key: value if key in kept else made.get(key, value) for key, value in own.items()}
    literals = dict(_weight_literals(dst, expressions, state, kept))
    if request.batches is not None:
        literals |= _observed(dst, twin, request)
    else:
        literals |= _given(dst, request.ranges, state)
    return Filled(full, literals)


def _given(dst: fx.GraphModule, ranges: Mapping[str, tuple[Expression, Expression]], state: Mapping[str, Any]) -> Literals:
    """Return the literals of the nodes whose ranges are given, and of the dequantizing nodes behind them."""
    literals: Literals = {}
    for node in dst.graph.nodes:
        if node.name in ranges:
            scale, zero_point = (part.evaluate(state) for part in ranges[node.name])
            literals |= dict.fromkeys(_sharing(node), (float(scale), int(zero_point)))
    return literals


def _sharing(node: fx.Node) -> tuple[fx.Node, ...]:
    """Return a quantizing node and the dequantizing nodes behind it, which have the same scale and zero point."""
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


def _observed(dst: fx.GraphModule, twin: Twin, request: FillRequest) -> Literals:
    """Run the batches through the float graph with fresh observers, and return the ranges that they saw."""
    fill_twin(twin, request.expressions, request.state)
    module = fx.GraphModule(nn.Module(), fx.Graph())
    vars(module).update({name: value for name, value in vars(twin.module).items() if name not in ("_graph", "_code")})
    observers: dict[fx.Node, nn.Module] = {}
    for index, group in enumerate(shared_ranges(dst.graph)):
        common = make_observer(group, request.qconfig)
        module.add_module(f"range_{index}", common)
        observers |= dict.fromkeys(group, common)
    _round_weights(dst, twin)
    module.graph = _with_observers(dst.graph, {observer: path for path, observer in module.named_children()}, observers)
    run(module, request.batches)
    literals: Literals = {}
    for node, found in observers.items():
        calculate: Any = found.calculate_qparams
        scale, zero_point = calculate()
        literals |= dict.fromkeys(_sharing(node), (float(scale), int(zero_point)))
    return literals


def _round_weights(dst: fx.GraphModule, twin: Twin) -> None:
    """Round the twin's weights if the model was prepared for QAT, so that observers see the outputs of rounded weights."""
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
    """Yield the nodes that quantize activations in graph order, grouped by the observer that they shared.

    A range is shared across an operation: by its result and its inputs, or by its inputs. Which operations do so is what the
    quantizer wrote into the graph. Where that is lost, those do that move values or pool them, if the literals are equal:
    equal literals alone show nothing, since observers that saw only zeros have the same.
    """
    leaders: dict[fx.Node, fx.Node] = {}

    def leader(node: fx.Node) -> fx.Node:
        while leaders[node] is not node:
            node = leaders[node]
        return node

    quantizing = [node for node in graph.nodes if quantizes_activation(node)]
    leaders.update((node, node) for node in quantizing)
    annotated = any("quantization_annotation" in node.meta for node in graph.nodes)
    for operation in graph.nodes:
        places = _sharing_one_range(operation, annotated)
        for node in places[1:]:
            if node.args[1:] == places[0].args[1:]:
                leaders[leader(node)] = leader(places[0])
    groups: dict[fx.Node, list[fx.Node]] = {}
    for node in quantizing:
        groups.setdefault(leader(node), []).append(node)
    yield from groups.values()


def _sharing_one_range(operation: fx.Node, annotated: bool) -> list[fx.Node]:
    """Return the nodes that quantize the inputs and the result of an operation, as far as they have one range."""
    inputs = list(_quantized_inputs(operation))
    results = [user for user in operation.users if quantizes_activation(user)]
    if not annotated:
        kind = kind_of(operation)
        return [*inputs, *results] if kind in _KEEP_THE_RANGE or has(kind, Trait.MOVEMENT) else []
    annotation = operation.meta.get("quantization_annotation")
    if _is_shared(getattr(annotation, "output_qspec", None)):
        return [*inputs, *results]
    return inputs if any(map(_is_shared, getattr(annotation, "input_qspec_map", {}).values())) else []


def _is_shared(spec: Any) -> bool:
    return any(kind.__name__ == "SharedQuantizationSpec" for kind in type(spec).__mro__)


def _quantized_inputs(operation: fx.Node) -> Iterator[fx.Node]:
    """Yield the nodes that quantize the inputs of an operation."""
    for operand in operation.all_input_nodes:
        before = operand.args[0] if border(operand) == "dequantize_per_tensor" else None
        if isinstance(before, fx.Node) and quantizes_activation(before):
            yield before


def make_observer(group: list[fx.Node], given: Any) -> nn.Module:
    """Make the observer or fake-quant of a range: the given one, else that of the graph's annotations, else a histogram."""
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
    """Return the quantizer's specification of a range from the annotations of the operations around it; None if lost."""
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


def _convert(model: nn.Module) -> nn.Module:
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    converted: nn.Module = convert_pt2e(move_exported_model_to_eval(model))
    return converted


PT2E = Form(
    "PT2E of torchao",
    _recognise,
    packages=("torch.ao.quantization", "torchao.quantization.pt2e"),
    node_rules=(DROP_BORDER, DROP_IDENTITY),
    finish=_finish,
    fill=_fill,
    convert=_convert,
)
