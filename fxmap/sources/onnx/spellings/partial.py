"""The part of an ONNX graph that is understood: what lies before operators that are not known."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# What these return are extents, of which the numbers that go in say nothing.
EXTENTS = ("Shape", "Size")


@dataclass(frozen=True)
class KnownPart:
    """The operators that can be run, the names that they leave, and the operators that are not known."""

    nodes: tuple[Any, ...]
    outputs: tuple[str, ...]
    unknown: tuple[str, ...]


def known_part(graph: Any, inputs: list[str], unknown_in: Callable[[Any], Iterator[str]]) -> KnownPart:
    """Return the operators of a graph that depend on none that is not known.

    Args:
        graph: an onnx.GraphProto.
        inputs: names that are given in a call.
        unknown_in: yields the operators that are not known of a node and its subgraphs.

    Its outputs are those of the graph that it makes, and the values that the rest of the graph would read.
    """
    nodes: list[Any] = []
    lost: dict[str, None] = {}
    unknown: dict[str, None] = {}
    live, edge = set(inputs), dict[str, None]()
    there = {*inputs, *(one.name for one in graph.initializer), ""}
    for node in graph.node:
        found = list(unknown_in(node))
        found += [_unmade(node, name) for name in node.input if name not in there and name not in lost]
        if found or any(name in lost for name in node.input):
            unknown |= dict.fromkeys(found)
            lost |= dict.fromkeys(node.output)
            edge |= dict.fromkeys(name for name in node.input if name in live and name not in inputs)
            continue
        nodes.append(node)
        there |= set(node.output)
        if node.op_type not in EXTENTS and any(name in live for name in node.input):
            live |= set(node.output)
    made = [one.name for one in graph.output if one.name in there and one.name]
    return KnownPart(tuple(nodes), tuple(dict.fromkeys((*made, *edge))), tuple(unknown))


def _unmade(node: Any, name: str) -> str:
    return f"{node.op_type}, which reads {name!r}, which nothing makes before it"
