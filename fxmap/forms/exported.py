"""Rewrites of graphs of torch.export: eval mode, no in-place writes, and no scaling of QAT weights by their norms.

An exported graph has no modes: exported in training mode, it trains even after `eval()`. It writes in place, too.
"""

from typing import Any

import torch
from torch import fx

from fxmap.forms.conversion import NodeRule, Within, rewrite_nodes
from fxmap.graph.kinds import out_of_place

aten = torch.ops.aten


def is_exported(graph: fx.Graph) -> bool:
    """Whether the operations of a graph are those of torch.export."""
    return any(getattr(node.target, "namespace", "") == "aten" for node in graph.nodes)


def evaluate(graph: fx.Graph, within: Within) -> None:
    """Rewrite an exported graph to its eval mode, without in-place writes and without scaled weights."""
    rewrite_nodes(graph.nodes, EVAL_RULES, within)
    rewrite_nodes(graph.nodes, (UNSCALE,), within)
    # Calls of modules are told apart by the module, which a graph of its own does not know.
    graph.eliminate_dead_code(lambda node: node.op == "call_module" or node.is_impure())


def _calls(node: fx.Node, function: Any) -> bool:
    return node.op == "call_function" and node.target is function


def _is_batch_norm(node: fx.Node, within: Within) -> bool:
    return _calls(node, aten.batch_norm.default)


def _use_running_statistics(node: fx.Node, within: Within) -> None:
    """batch_norm(x, gamma, beta, mean, var, training=True)  ->  batch_norm(x, gamma, beta, mean, var, training=False)."""
    node.update_arg(5, False)


def _is_dropout(node: fx.Node, within: Within) -> bool:
    return _calls(node, aten.dropout.default)


def _drop_nothing(node: fx.Node, within: Within) -> None:
    """dropout(x, p, training=True)  ->  dropout(x, p, training=False)."""
    node.update_arg(2, False)


def _counts_batches(node: fx.Node, within: Within) -> bool:
    return _calls(node, aten.add_.Tensor) and not node.users and _is_read(node.args[0])


def _count_nothing(node: fx.Node, within: Within) -> None:
    """add_(num_batches_tracked, 1)  ->  nothing."""
    node.graph.erase_node(node)


def _writes_in_place(node: fx.Node, within: Within) -> bool:
    writes = node.op == "call_function" and out_of_place(node.target) is not None and isinstance(node.args[0], fx.Node)
    return writes and not _is_seen_elsewhere(node)


def _is_seen_elsewhere(write: fx.Node) -> bool:
    """Whether a later operation reads what is written through another node: the tensor of which it is a part, or a part."""
    written = write.args[0]
    assert isinstance(written, fx.Node)
    whole = written
    while _is_view(whole) and isinstance(whole.args[0], fx.Node):
        whole = whole.args[0]
    family, waiting = {written}, [whole]
    while waiting:
        one = waiting.pop()
        if one is not written and any(user > write for user in one.users):
            return True
        family.add(one)
        waiting += [user for user in one.users if _is_view(user) and user < write and user not in family]
    return False


def _is_view(node: fx.Node) -> bool:
    """Whether a node is a part of its first argument, or that in another shape."""
    schema = getattr(node.target, "_schema", None)
    aliases = [one.alias_info for one in schema.returns] if schema is not None else []
    return bool(node.args) and any(one is not None and not one.is_write for one in aliases)


def _return_instead(node: fx.Node, within: Within) -> None:
    """f_(x); g(x)  ->  y = f(x); g(y)."""
    written = node.args[0]
    assert isinstance(written, fx.Node)
    node.target = out_of_place(node.target)  # type: ignore[assignment]
    later = [user for user in written.users if user > node]
    for user in later:
        user.replace_input_with(written, node)


EVAL_RULES = (
    NodeRule(_is_batch_norm, _use_running_statistics),
    NodeRule(_is_dropout, _drop_nothing),
    NodeRule(_counts_batches, _count_nothing),
    NodeRule(_writes_in_place, _return_instead),
)


def _divides_scaled_layer(node: fx.Node, within: Within) -> bool:
    return _calls(node, aten.div.Tensor) and _unscaled_weight(node) is not None


def _unscale(node: fx.Node, within: Within) -> None:
    """conv(x, w * s) / s  ->  conv(x, w), and conv(x, w * s, zeros) / s + b  ->  conv(x, w, b).

    Preparing for QAT writes every batch norm as batch_norm(conv(x, w * s) / s) with s = gamma / sqrt(var + eps), so that
    w * s can be fake-quantized. A bias is taken out of the layer, which has zeros in its place, and added behind.
    """
    layer = node.args[0]
    assert isinstance(layer, fx.Node)
    layer.update_arg(1, _unscaled_weight(node))
    node.replace_all_uses_with(layer)
    node.graph.erase_node(node)
    bias = layer.args[2] if len(layer.args) > 2 else None
    if isinstance(bias, fx.Node) and bias.op == "call_function":
        _restore_bias(layer)


UNSCALE = NodeRule(_divides_scaled_layer, _unscale)


def _unscaled_weight(division: fx.Node) -> fx.Node | None:
    """Return w where a node is layer(x, w * s) / s, and nothing else reads the layer; None for other nodes."""
    layer, scale = division.args[0], _origin(division.args[1])
    if not isinstance(layer, fx.Node) or scale is None or len(layer.args) < 2 or len(layer.users) != 1:
        return None
    product = layer.args[1]
    if not isinstance(product, fx.Node) or product.target is not aten.mul.Tensor:
        return None
    weight, factor = product.args
    return weight if _is_read(weight) and isinstance(weight, fx.Node) and _origin(factor) is scale else None


def _restore_bias(layer: fx.Node) -> None:
    """conv(x, w, zeros) + b  ->  conv(x, w, b)."""
    (user,) = layer.users
    if user.target is not aten.add.Tensor:
        return
    bias = _origin(user.args[1])
    if bias is not None and _is_read(bias):
        layer.update_arg(2, bias)
        user.replace_all_uses_with(layer)
        layer.graph.erase_node(user)


def _origin(value: Any) -> fx.Node | None:
    """Return the node that a reshape reads."""
    while isinstance(value, fx.Node) and value.target is aten.reshape.default:
        value = value.args[0]
    return value if isinstance(value, fx.Node) else None


def _is_read(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr"
