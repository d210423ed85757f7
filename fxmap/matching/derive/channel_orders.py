"""Channels in another order: which tensors of a layer have them, along which axis.

A model may join the same maps in another order. What reads the join then has its input channels in another order; so has
what has numbers for each of them, as a norm or a depthwise layer, which hands them on in that order.
"""

from fxmap.expressions.base import Expression
from fxmap.expressions.layout import Columns, take
from fxmap.graph.opgraph import OpGraph

# The axis of the channels in what an operation reads.
_AXES = {"convolution": 1, "linear": -1, "batch_norm": 1, "layer_norm": -1}


def channels_read(ops: OpGraph, name: str) -> int | None:
    """Return the axis of the channels in what a layer reads; None where it is not known, or no tensor has one for each."""
    return _AXES[ops.op(name).kind] if ordered_tensors(ops, name) else None


def ordered_tensors(ops: OpGraph, name: str) -> dict[str, int]:
    """Return the tensors of a layer that change with the order of its input channels, each with the axis of these."""
    op, tensors = ops.op(name), ops.tensors(name)
    shapes = {tensor.key or "": tensor.shape or () for tensor in tensors.values()}
    if op.kind not in _AXES or op.attribute("axes") or not shapes:
        return {}
    if op.kind in ("batch_norm", "layer_norm"):
        return dict.fromkeys(shapes, 0) if {len(shape) for shape in shapes.values()} == {1} else {}
    groups = op.attribute("groups", 1)
    if groups == 1:
        return {tensors["weight"].key or "": 1} if "weight" in tensors else {}
    depthwise = all(shape and shape[0] == groups for shape in shapes.values())
    return dict.fromkeys(shapes, 0) if depthwise else {}


def in_order(made: Expression, order: tuple[int, ...], axis: int) -> Expression:
    """Return a tensor with its channels in another order."""
    return Columns(made, order) if axis else take(made, order, len(order))
