"""The table of ONNX operators that are known, and what is told from it.

>>> from types import SimpleNamespace as Node
>>> list(unknown_in(Node(op_type="Turn", domain="my.domain", attribute=[])))
['my.domain.Turn']
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from fxmap.sources.onnx.ops.elementwise import ELEMENTWISE
from fxmap.sources.onnx.ops.layers import LAYERS
from fxmap.sources.onnx.ops.quantized import QUANTIZED
from fxmap.sources.onnx.ops.recurrent import RECURRENT
from fxmap.sources.onnx.ops.reductions import OF_OPSET, REDUCTIONS
from fxmap.sources.onnx.ops.shapes import OF_OUTPUTS, SHAPES
from fxmap.sources.onnx.records.protos import attribute_of, constant_of, nodes_of

OPERATORS: dict[str, Callable[..., Any]] = ELEMENTWISE | REDUCTIONS | SHAPES | LAYERS | RECURRENT | QUANTIZED
# Domains whose operators are those of the standard.
DOMAINS = ("", "ai.onnx")


def unknown_in(node: Any) -> Iterator[str]:
    """Yield the operators of a node and of the graphs in it that are not known."""
    if not _is_known(node):
        yield _operator(node)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                yield from unknown_in(inner)


# What gives the first of its inputs in another shape.
_MOVING = ("Cast", "Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def initial_states(graph: Any) -> set[str]:
    """Return what recurrent operators read as their first states, or move to these, which is no weight where it is zero."""
    nodes = list(nodes_of(graph))
    moved = {node.output[0]: node.input[0] for node in nodes if node.op_type in _MOVING}
    found: set[str] = set()
    waiting = [name for node in nodes if node.op_type in RECURRENT for name in list(node.input)[5:7]]
    while waiting:
        found.add(name := waiting.pop())
        waiting += [moved[name]] if name in moved else []
    return found


def constants_read_by(graph: Any, operators: Iterable[str]) -> dict[str, Tensor]:
    """Return what constants some operators read, and what is made of constants alone, by the names of the results."""
    read = {name for node in nodes_of(graph) if node.op_type in operators for name in node.input}
    known: dict[str, Tensor] = {}
    for node in graph.node:
        attributes = {one.name: attribute_of(one) for one in node.attribute}
        if node.op_type == "Constant":
            known[node.output[0]] = constant_of(attributes)
        elif node.op_type in ("Cast", "ConstantOfShape", "Identity") and node.input[0] in known:
            known[node.output[0]] = OPERATORS[node.op_type](known[node.input[0]], **attributes)
    return {name: value for name, value in known.items() if name in read}


def _operator(node: Any) -> str:
    return node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}"


def _is_known(node: Any) -> bool:
    known = OPERATORS.keys() | OF_OPSET.keys() | OF_OUTPUTS.keys() | {"Constant", "If"}
    return node.domain in DOMAINS and node.op_type in known
