"""A window as large as the map: conv(x, w) = linear(flatten(x), flatten(w)), and avg_pool(x) = mean(x) over all positions.

Holds for inputs of the size that was recorded, with no padding: there is one position.
"""

from dataclasses import replace

from torch import fx

from fxmap.graph.arguments import bind
from fxmap.graph.opgraph import Op, OpGraph
from fxmap.normalize.rule import Context, Outcome, Rule

_AS = {"convolution": "linear", "avg_pool": "mean"}


def _cover(context: Context, op: Op) -> Outcome:
    """Turn a convolution or a pool whose one window covers the map into a linear layer or a mean."""
    node = context.nodes.get(op.name)
    if node is None or not _covers(context.ops, op.name, node):
        return "its window is smaller than the map, or the size of the map is not known"
    attributes = (("axes", "o i kh kw"),) if op.kind == "convolution" else ()
    context.ops.add(replace(op, kind=_AS[op.kind], attributes=attributes))
    return (op.name,)


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


COVER_MAP = Rule("windows as large as the map", frozenset(_AS), _cover)
