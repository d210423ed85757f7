"""A window as large as the map: conv(x, w) = linear(flatten(x), flatten(w)), and avg_pool(x) = mean(x) over all positions.

Holds for inputs of the size that was recorded, with no padding: there is one position.
"""

from dataclasses import replace

from torch import fx

from fxmap.graph.arguments import bind
from fxmap.graph.opgraph import OpGraph


def cover_map(ops: OpGraph, graph: fx.Graph) -> None:
    """Turn convolutions and average pools whose kernel is as large as their input into linear layers and means."""
    nodes = {node.name: node for node in graph.nodes}
    for op in [op for op in ops.of_kind(_AS) if op.name in nodes and _covers(ops, op.name, nodes[op.name])]:
        attributes = (("axes", "o i kh kw"),) if op.kind == "convolution" else ()
        ops.add(replace(op, kind=_AS[op.kind], attributes=attributes))


_AS = {"convolution": "linear", "avg_pool": "mean"}


def _covers(ops: OpGraph, name: str, node: fx.Node) -> bool:
    arguments = bind(node)
    before = arguments["input"]
    if not isinstance(before, fx.Node) or "shape" not in before.meta or "shape" not in node.meta:
        return False
    weight = ops.tensors(name).get("weight")
    kernel = arguments.get("kernel_size") if weight is None else (weight.shape or ())[2:]
    extents = tuple(before.meta["shape"][2:])
    padded = any(arguments.get("padding") or ())
    whole = tuple(kernel or ()) == extents and any(extent > 1 for extent in extents)
    return whole and not padded and arguments.get("groups", 1) == 1 and set(node.meta["shape"][2:]) == {1}
