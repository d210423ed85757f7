"""What the initializers of an ONNX graph are: weights, which a model holds, and constants of the code."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fxmap.sources.onnx.interpreter import Reading
from fxmap.sources.onnx.ops.operators import constants_read_by, initial_states
from fxmap.sources.onnx.ops.quantized import BORDERS, cut_at_zero, left_out, read_at_once, zero_points
from fxmap.sources.onnx.records.held import Held
from fxmap.sources.onnx.records.protos import constant_nodes, exact_tensor, nodes_of, tensor_of
from fxmap.sources.onnx.spellings.groups import GroupNorm, group_norms
from fxmap.sources.onnx.spellings.idioms import gates, guarded_softmaxes, is_empty_mask, kept_variances
from fxmap.sources.onnx.spellings.numbers import numbers_of
from fxmap.sources.onnx.spellings.partial import KnownPart
from fxmap.sources.onnx.spellings.pools import padded_pools
from fxmap.sources.onnx.spellings.roles import are_counted, is_made_up, is_weight, reads_weight, roles_of
from fxmap.sources.onnx.spellings.tables import tables_of_code
from fxmap.sources.onnx.spellings.turned import TO_FIRST, perm_of
from fxmap.sources.onnx.spellings.unrolled import fixed_names


def take_contents(
    model: Held,
    reading: Reading,
    graph: Any,
    part: KnownPart,
    inputs: list[str],
    quantized: bool,
    outside: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Let a model hold the weights of a graph, and note how its nodes are read; return the constants by their names.

    Args:
        model: holds nothing yet.
        reading: of which the opset is known.
        graph: an onnx.GraphProto.
        part: of the graph, which is run.
        inputs: names that are given in a call.
        quantized: whether the graph quantizes something.
        outside: initializers whose numbers lie in a file beside the model.
    """
    known = {one.name: outside[one.name] if one.name in outside else tensor_of(one) for one in graph.initializer}
    # Where a graph is quantized, exporters write scales as constants, too.
    known |= constants_read_by(graph, BORDERS) if quantized else {}
    if quantized:
        reading.zero_points = zero_points(nodes_of(graph), known)
        _hold_at_once(model, reading, part, known)
    constants = _hold_weights(model, reading, graph, known)
    if not quantized:
        constants |= {name: model.release(name) for name in _tables(model, part, inputs, are_counted(known))}
    if quantized:
        for node in _left_to_run(reading, graph):
            if (name := left_out(node)) and name not in model.paths and node.input[1] in known:
                model.hold(name, torch.zeros_like(known[node.input[1]], dtype=torch.int64))
        reading.cut = cut_at_zero(graph.node, known)
        reading.fixed = fixed_names(part.nodes, {*inputs, *model.paths})
    reading.groups = _group_norms(model, part, known)
    constants |= {
        name: model.release(name) for one in reading.groups.values() for name in one.neutral if name in model.paths
    }
    fixed = constants | constant_nodes(part.nodes)
    reading.guarded = guarded_softmaxes(graph.node, fixed)
    reading.variances = kept_variances(part.nodes, fixed)
    reading.gates = {} if quantized else gates(part.nodes)
    reading.pools = {} if quantized else padded_pools(part.nodes, fixed)
    reading.numbers = numbers_of(part.nodes, fixed)
    reading.is_turned = any(perm_of(node) == TO_FIRST for node in part.nodes) and not quantized
    return constants


def _group_norms(model: Held, part: KnownPart, known: Mapping[str, Tensor]) -> dict[str, GroupNorm]:
    """Return the group norms of a graph whose ones and zeros are no weights."""
    found = group_norms(part.nodes, {**known, **constant_nodes(part.nodes)})
    return {name: one for name, one in found.items() if all(it not in model.paths or is_made_up(it) for it in one.neutral)}


def _tables(model: Held, part: KnownPart, inputs: list[str], counted: bool) -> set[str]:
    """Return the tables of the code among what is held."""
    roles = roles_of(part.nodes)
    tables = {
        name
        for name in model.paths
        if (counted or is_made_up(name)) and not any(reads_weight(*role) for role in roles.get(name, ()))
    }
    return tables_of_code(part.nodes, tables, {*inputs, *model.paths} - tables)


def _hold_at_once(model: Held, reading: Reading, part: KnownPart, known: Mapping[str, Tensor]) -> None:
    """Hold weights that are dequantized when they are read."""
    for node in part.nodes:
        value = read_at_once(node, known)
        if value is not None:
            reading.at_once[node.output[0]] = node.input[0]
            if node.input[0] not in model.paths:
                model.hold(node.input[0], value)


def _hold_weights(model: Held, reading: Reading, graph: Any, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    states, roles = initial_states(graph), roles_of(_left_to_run(reading, graph))
    constants: dict[str, Tensor] = {}
    counted = are_counted(known)
    for name, value in known.items():
        read = roles.get(name, set())
        is_start = name in states and not value.any()
        if is_empty_mask(name, value, read):
            reading.masks.add(name)
        if name in model.paths:
            continue
        if any(kind in BORDERS for kind, _ in read):
            model.hold(name, value.long() if name in reading.zero_points else value)
        elif is_start or name in reading.masks or not is_weight(name, value, read, counted=counted):
            constants[name] = exact_tensor(value)
        else:
            model.hold(name, value)
    return constants


def _left_to_run(reading: Reading, graph: Any) -> list[Any]:
    """Return the nodes that are not read at once."""
    return [node for node in nodes_of(graph) if reading.at_once.keys().isdisjoint(node.output)]
