"""An ONNX graph read as a source: what its exporter computed beforehand is read as what models compute it of.

Norms that are written out are norms, kernels lie as layers read them, and what was looked up in a table is read as made of
one. In a file that is filled there is no place for what is read so.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from fxmap.sources.onnx.interpreter import Interpreter, Reading
from fxmap.sources.onnx.records.held import Held
from fxmap.sources.onnx.spellings.norms import kernel_chains, written_out
from fxmap.sources.onnx.spellings.repeated import repeated
from fxmap.sources.onnx.spellings.roles import are_counted, is_computed, reads_weight, roles_of
from fxmap.sources.onnx.spellings.twins import twins


def read_as_source(
    model: Held, reading: Reading, constants: Mapping[str, Tensor], nodes: Sequence[Any], outputs: Sequence[str]
) -> None:
    """Change what a model holds, and the reading of its graph, to what models of torch have.

    Args:
        model: what holds the weights.
        reading: of the graph.
        constants: what is no weight, by its name.
        nodes: onnx.NodeProtos in their order.
        outputs: the names of the graph's outputs.
    """
    reading.twins = twins({name: model.held(name) for name in model.paths})
    for name in reading.twins:
        model.release(name)
    _read_kernels(model, reading, constants, nodes)
    held = {name: model.held(name) for name in model.paths}
    held |= {end: held[name] for end, name in reading.kernels.items()}
    reading.norms = {norm.output: norm for norm in written_out(nodes, held, outputs)}
    for norm in reading.norms.values():
        for name in filter(None, (norm.mean, norm.factor, norm.shift)):
            model.put(name, held[name].reshape(-1))
        for name, value in norm.missing(held).items():
            model.hold(name, value)
    reading.repeated = repeated({name: model.held(name) for name in model.paths}, roles_of(nodes))


def tables_of_exporter(
    names: Iterable[str], also: Collection[str], graph: Any, nodes: Sequence[Any], reading: Reading
) -> list[str]:
    """Return those of some held names which an exporter made up, and which no layer reads as a weight.

    Args:
        names: of what a model holds.
        also: those of them that count as made up.
        graph: an onnx.GraphProto.
        nodes: those that are run.
        reading: of the graph; what it moves, or reads as a part of a norm, is left out.
    """
    counted, roles = are_counted([one.name for one in graph.initializer]), roles_of(nodes)
    parts = {name for norm in reading.norms.values() for name in (*norm.names(), norm.shift)}
    free = [name for name in names if name not in parts and name not in reading.kernels.values()]
    made = [name for name in free if counted or name in also or is_computed(name)]
    return [name for name in made if not any(reads_weight(*role) for role in roles.get(name, ()))]


def _read_kernels(model: Held, reading: Reading, constants: Mapping[str, Tensor], nodes: Sequence[Any]) -> None:
    """Hold kernels as convolutions read them, where the graph moves them before."""
    for name, chain in kernel_chains(nodes):
        if name not in model.paths:
            continue
        held = model.held(name)
        values: dict[str, Any] = {**constants, name: held}
        interpreter = Interpreter(reading, held.dtype)
        for node in chain:
            if any(part not in values for part in node.input):
                break
            values[node.output[0]] = interpreter.results(node, values)[0]
        else:
            model.put(name, values[chain[-1].output[0]].contiguous())
            reading.kernels[chain[-1].output[0]] = name
            reading.moved |= {node.output[0] for node in chain}
