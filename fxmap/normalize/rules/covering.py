"""A window as large as the map: conv(x, w) = linear(flatten(x), flatten(w)), and a pool is mean(x) or amax(x) over the map.

Holds for inputs of the size that was recorded, with no padding: there is one position.
"""

from dataclasses import replace
from typing import Any

from torch import fx

from fxmap.graph.arguments import bind
from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule

_AS = {"convolution": "linear", "avg_pool": "mean", "max_pool": "amax"}


def _cover(context: Context, op: Op) -> Outcome:
    """Turn a convolution or a pool whose one window covers the map into a linear layer, a mean or the largest."""
    node = context.nodes.get(op.name)
    if node is None or not _covers(context, op.name, node):
        return "its window is smaller than the map, or the size of the map is not known"
    attributes = (("axes", "o i kh kw"),) if op.kind == "convolution" else ()
    context.ops.add(replace(op, kind=_AS[op.kind], attributes=attributes))
    return (op.name,)


def _covers(context: Context, name: str, node: fx.Node) -> bool:
    arguments = bind(node)
    before = arguments["input"]
    after = context.nodes.get(context.ops.op(name).output, node).meta
    if not isinstance(before, fx.Node) or "shape" not in before.meta or "shape" not in after:
        return False
    weight = context.ops.tensors(name).get("weight")
    kernel = arguments.get("kernel_size") if weight is None else (weight.shape or ())[2:]
    extents = tuple(before.meta["shape"][2:])
    padded = any(_each(arguments.get("padding") or (), len(extents)))
    padded = padded or arguments.get("divisor_override") is not None
    whole = _each(kernel or (), len(extents)) == extents and any(extent > 1 for extent in extents)
    return whole and not padded and arguments.get("groups", 1) == 1 and set(after["shape"][2:]) == {1}


def _each(value: Any, count: int) -> tuple[Any, ...]:
    """Return a value for each axis of a map, where one may stand for all."""
    parts = tuple(value) if isinstance(value, list | tuple) else (value,)
    return parts * count if len(parts) == 1 else parts


COVER_MAP = Rule("windows as large as the map", frozenset(_AS), _cover)
