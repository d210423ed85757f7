"""batch_norm(layer(x, w, b)) = layer(x, w', b') with an affine layer: one operation with an optional norm.

    w' = w * gamma / sqrt(var + eps)        b' = (b - mean) * gamma / sqrt(var + eps) + beta

Holds in eval mode for a convolution or linear layer whose output goes nowhere but into a batch norm with running
statistics, and whose weight no other operation reads: a shared convolution followed by several norms is never folded.
After it, the unfused, QAT-fused, eval-fused and int8 forms of a network are one graph. The norm's tensors become arguments
"norm.weight", "norm.running_var", ... of the layer.
"""

from dataclasses import replace

from fxmap.graph.affine import affine_shape
from fxmap.graph.kinds import Trait, has, kinds
from fxmap.graph.opgraph import Op, OpGraph
from fxmap.normalize.rule import Context, Outcome, Rule

_VIEWS = kinds(Trait.VIEW | Trait.RESHAPE | Trait.FLATTEN | Trait.PERMUTE)


def _merge(context: Context, op: Op) -> Outcome:
    """Merge a batch norm into the layer before it."""
    ops, found = context.ops, _layer_before(context.ops, op.name)
    if isinstance(found, str):
        return found
    layer, between = found
    eps = op.attribute("eps", 1e-5)  # the default of torch.nn.functional.batch_norm
    merged = replace(ops.op(layer), attributes=(*ops.op(layer).attributes, ("norm.eps", eps)), output=op.output)
    for argument, tensor in ops.tensors(op.name).items():
        ops.network.add_edge(tensor.name, layer, argument=f"norm.{argument}")
    users = ops.substitute(op.name, layer)
    ops.network.remove_nodes_from(between)
    ops.add(merged)
    return (layer, *users)


def _layer_before(ops: OpGraph, norm: str) -> tuple[str, list[str]] | str:
    """Return the layer that a batch norm can be folded into, and the views in between; or why there is none."""
    (layer,) = ops.operands(norm)["input"]
    between: list[str] = []
    while ops.op(layer).kind in _VIEWS and len(ops.users(layer)) == 1:
        between.append(layer)
        (layer,) = ops.operands(layer)["input"]
    if not has(ops.op(layer).kind, Trait.AFFINE):
        return "what stands before it is no affine layer"
    obstacle = _obstacle(ops, layer, norm)
    if obstacle:
        return obstacle
    channels = affine_shape(ops.op(layer), ops.tensors(layer)["weight"])[0]
    statistics = ops.tensors(norm).get("running_mean")
    if statistics is None:
        return "its statistics are computed, as where each sample is normalised by itself"
    if between and statistics.shape != (channels,):
        return "it normalises another axis than that of the layer's channels"
    return layer, between


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


MERGE_BATCH_NORM = Rule("merge batch norms", frozenset({"batch_norm"}), _merge)
