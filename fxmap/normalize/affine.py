"""batch_norm(layer(x, w, b)) = layer(x, w', b') with an affine layer: one operation with an optional norm.

    w' = w * gamma / sqrt(var + eps)        b' = (b - mean) * gamma / sqrt(var + eps) + beta

Holds in eval mode for a convolution or linear layer whose output goes nowhere but into a batch norm with running
statistics, and whose weight no other operation reads: a shared convolution followed by several norms is never folded.
After it, the unfused, QAT-fused, eval-fused and int8 forms of a network are one graph. The norm's tensors become arguments
"norm.weight", "norm.running_var", ... of the layer.
"""

from dataclasses import replace
from math import prod

from fxmap.graph import Op, OpGraph

_VIEWS = {"view", "unsafe_view", "reshape", "flatten", "unflatten", "transpose", "permute"}
AFFINE = {"convolution", "conv_transpose", "linear"}


def affine_shape(op: Op, weight: Op) -> tuple[int, ...]:
    """Return the shape of an affine operation's weight as `o i kh kw`: of its rows alone, whatever axes it is stored in.

    A kernel of 1 is no axis: a 1x1 convolution is a linear layer over channels. One as large as its input is a linear layer
    over channels and positions.
    """
    shape = weight.shape or ()
    if op.attribute("axes") == "i o":
        shape = shape[::-1]
    if op.attribute("axes") == "o i kh kw":
        shape = (shape[0], prod(shape[1:]))
    if all(extent == 1 for extent in shape[2:]):
        shape = shape[:2]
    return shape if op.rows is None else (len(op.rows), *shape[1:])


def pointwise(op: Op, weight: Op) -> bool:
    """Whether a convolution is a linear layer over channels: a kernel of 1, one group, no stride and no padding.

    conv1x1(x)[b, :, p] = linear(x[b, :, p]) for every position p.
    """
    names = {name for name, _ in op.attributes if not name.startswith("norm.")}
    trivial = all(op.attribute(name) in (0, 1, False) for name in names)
    ones = {op.attribute(name, 1) for name in ("stride", "dilation", "groups")} == {1} and op.attribute("padding", 0) == 0
    return op.kind == "convolution" and trivial and ones and all(extent == 1 for extent in (weight.shape or ())[2:])


def merge_batch_norm(graph: OpGraph) -> None:
    """Merge every batch norm that can be folded into the layer before it."""
    for op in graph.of_kind({"batch_norm"}):
        norm, found = op.name, foldable(graph, op.name)
        if found is None:
            continue
        layer, between = found
        eps = op.attribute("eps", 1e-5)  # the default of torch.nn.functional.batch_norm
        merged = replace(graph.op(layer), attributes=(*graph.op(layer).attributes, ("norm.eps", eps)), output=op.output)
        for argument, tensor in graph.tensors(norm).items():
            graph.network.add_edge(tensor.name, layer, argument=f"norm.{argument}")
        for user, use in graph.users(norm):
            graph.network.add_edge(layer, user, argument=use)
        graph.network.remove_nodes_from([norm, *between])
        graph.add(merged)


def foldable(graph: OpGraph, norm: str) -> tuple[str, list[str]] | None:
    """Return the layer that a batch norm can be folded into, and the views in between; or None."""
    (layer,) = graph.operands(norm)["input"]
    between: list[str] = []
    while graph.op(layer).kind in _VIEWS and len(graph.users(layer)) == 1:
        between.append(layer)
        (layer,) = graph.operands(layer)["input"]
    if graph.op(layer).kind not in AFFINE or _obstacle(graph, layer, norm):
        return None
    channels = affine_shape(graph.op(layer), graph.tensors(layer)["weight"])[0]
    statistics = graph.tensors(norm)["running_mean"].shape
    return (layer, between) if not between or statistics == (channels,) else None


def unfolded(graph: OpGraph, layer: str) -> str:
    """Say why the batch norm behind a layer could not be merged into it; empty where there is none.

    Reads the normalised graph: a norm that is still there was not merged.
    """
    norms = [user for user, argument in graph.users(layer) if graph.op(user).kind == "batch_norm" and argument == "input"]
    if not norms:
        return ""
    op = graph.op(norms[0])
    return f"the batch norm {op.module or op.name} behind it cannot be folded: {_obstacle(graph, layer, norms[0])}"


def _obstacle(graph: OpGraph, layer: str, norm: str) -> str:
    operands = graph.operands(norm)
    if "running_mean" not in operands or "running_var" not in operands:
        return "it has no running statistics (track_running_stats=False), and normalises by those of each batch"
    if "norm.running_mean" in graph.operands(layer):
        return "another batch norm stands before it"
    if len(graph.users(layer)) != 1:
        return "the layer's output has other consumers"
    weight = graph.tensors(layer).get("weight")
    if weight is None or len(graph.users(weight.name)) != 1:
        return "the layer's weight is shared"
    return ""
