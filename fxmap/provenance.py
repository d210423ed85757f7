"""Provenance: which channels of a layer's output reach which consumer.

A joined projection needs no rule. Push a tensor of channel numbers through the data movement behind the layer: if its
consumers see disjoint sets of channels, it is several layers in one, each owning some rows of the weight and the bias, in
whatever order or interleaving the code uses. The rows of each are listed in the order in which its consumer meets them, so
that layers which another model keeps apart, or joins differently, have the same order.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.graph import OpGraph, kind_of
from fxmap.normalize.affine import AFFINE
from fxmap.normalize.identity import IDENTITIES
from fxmap.normalize.movement import MOVEMENT
from fxmap.normalize.scaling import SCALING

_MOVES = MOVEMENT | IDENTITIES
_PARTING = {"slice", "select", "split", "split_with_sizes", "unsafe_split", "chunk", "unbind", "narrow"}


@dataclass(frozen=True, slots=True)
class _Use:
    """A consumer, the nodes of the path by which a layer reaches it, and the channels that it sees, in its order."""

    user: str
    path: tuple[str, ...]
    rows: tuple[int, ...]


def split_joined(ops: OpGraph, graph: fx.Graph) -> OpGraph:
    """Split every layer whose consumers see disjoint sets of its output channels.

    Needs the shapes of values (`node.meta["shape"]`); layers whose shape is not known are left alone. Linear in the number
    of operations, times the size of the values behind joined layers.
    """
    nodes = {node.name: node for node in graph.nodes}
    for op in list(ops.ops()):
        node = nodes.get(op.output)
        if op.kind not in AFFINE or op.kind == "conv_transpose" or node is None or "shape" not in node.meta:
            continue
        uses, passed = _uses(node, 1 if op.kind == "convolution" else -1)
        parts = list(dict.fromkeys(frozenset(use.rows) for use in uses))
        channels = node.meta["shape"][1 if op.kind == "convolution" else -1]
        if len(parts) < 2 or sum(map(len, parts)) != channels or len(frozenset().union(*parts)) != channels:
            continue
        ops = _split(ops, op.name, uses, passed)
    return ops


def _uses(layer: fx.Node, axis: int) -> tuple[list[_Use], set[str]]:
    """Follow data movement from a layer to its consumers; empty where a path cannot be followed."""
    if not _parts(layer):
        return [], set()
    shape = [1] * len(layer.meta["shape"])
    shape[axis] = -1
    start = torch.arange(layer.meta["shape"][axis]).view(shape).expand(layer.meta["shape"])
    queue: list[tuple[fx.Node, Any, tuple[str, ...]]] = [(layer, start, (layer.name,))]
    uses: list[_Use] = []
    passed = {layer.name}
    while queue:
        node, channels, path = queue.pop()
        for user in node.users:
            moved = _move(user, node, channels)
            if moved is not None:
                passed.add(user.name)
                queue.append((user, moved, (*path, user.name)))
            elif isinstance(channels, Tensor):
                uses.append(_Use(user.name, path, _order(channels)))
            else:
                return [], set()
    return uses, passed


def _parts(layer: fx.Node) -> bool:
    """Whether some movement behind the layer parts its output: most layers are done here."""
    queue, seen = [layer], {layer}
    while queue:
        for user in queue.pop().users:
            if user in seen or user.op != "call_function" or not _passes(user):
                continue
            if kind_of(user) in _PARTING:
                return True
            seen.add(user)
            queue.append(user)
    return False


def _passes(node: fx.Node) -> bool:
    return kind_of(node) in _MOVES or (kind_of(node) in SCALING and len(node.all_input_nodes) == 1)


def _move(user: fx.Node, node: fx.Node, channels: Any) -> Any:
    """Return the channels behind one step of movement, or None where the step is a consumer."""
    if user.op != "call_function" or not _passes(user) or user.all_input_nodes != [node]:
        return None
    if kind_of(user) not in MOVEMENT:
        return channels
    if kind_of(user) in ("view", "unsafe_view"):
        # The numbers need not lie in memory as the values do, for which a view was enough.
        return channels.reshape(user.args[1])
    return user.target(*(channels if part is node else part for part in user.args), **user.kwargs)  # type: ignore[operator]


def _order(channels: Tensor) -> tuple[int, ...]:
    """Return the channels that occur, in the order of their first occurrence."""
    return tuple(dict.fromkeys(channels.flatten().tolist()))


def _split(ops: OpGraph, name: str, uses: list[_Use], passed: set[str]) -> OpGraph:
    ops = ops.copy()
    op = ops.op(name)
    parts: dict[frozenset[int], str] = {}
    for use in uses:
        rows = frozenset(use.rows)
        if rows not in parts:
            parts[rows] = f"{name}#{len(parts)}"
            ops.add(replace(op, name=parts[rows], rows=use.rows))
            for producer, _, argument in list(ops.network.in_edges(name, data="argument")):
                ops.network.add_edge(producer, parts[rows], argument=argument)
        # Identities on the path are gone from the operation graph: the edge comes from the last node that is left.
        last = next((node for node in reversed(use.path) if node in ops.network), name)
        if use.user not in ops.network:
            continue
        for producer, _, key, argument in list(ops.network.in_edges(use.user, keys=True, data="argument")):
            if producer == last:
                ops.network.remove_edge(producer, use.user, key=key)
                ops.network.add_edge(parts[rows], use.user, argument=argument)
    ops.network.remove_nodes_from([node for node in {name, *passed} if node in ops.network])
    return ops
