"""norm(x, w, b) = norm(x) * w + b: a rewrite of a recorded graph, for layer norm and group norm.

Some models spell a norm out, over channels or over groups, and then scale and shift its result. With the native operation
taken apart as well, weight and bias are read by the same two operations in both models.
"""

from typing import Any

import torch
from torch import fx

from fxmap.capture.rewrites.driver import FxRule, sweep
from fxmap.capture.rewrites.origins import Origins

_LAYER, _GROUP = torch.ops.aten.native_layer_norm.default, torch.ops.aten.native_group_norm.default


_STEPS = {"weight": torch.ops.aten.mul.Tensor, "bias": torch.ops.aten.add.Tensor}


# The positions of weight and bias among the arguments.
_PLACES: dict[Any, dict[str, int]] = {_LAYER: {"weight": 2, "bias": 3}, _GROUP: {"weight": 1, "bias": 2}}


def scaling_norms(graph: fx.Graph) -> list[fx.Node]:
    """Return the native norms of a recorded graph that read a weight or a bias."""
    return [node for node in graph.nodes if node.target in _PLACES and _tensors(node)]


def take_apart(graph: fx.Graph) -> None:
    """Split every native norm of a recorded graph, in place, into norm, mul and add. Linear in the number of nodes."""
    sweep(graph, (), (SCALE_APART,))


def _scale_apart(node: fx.Node, origins: Origins) -> fx.Node | str:
    tensors = _tensors(node)
    if not tensors:
        return "it has neither a weight nor a bias"
    places = _PLACES[node.target].values()
    node.args = tuple(None if place in places else value for place, value in enumerate(node.args))
    for result in [user for user in node.users if user.args[1] == 0]:
        _scale(origins.graph, result, node.target, tensors)
    return node


def _tensors(node: fx.Node) -> dict[str, fx.Node]:
    return {name: part for name, place in _PLACES[node.target].items() if isinstance(part := node.args[place], fx.Node)}


def _scale(graph: fx.Graph, result: fx.Node, target: Any, tensors: dict[str, fx.Node]) -> None:
    users = list(result.users)
    value = result
    for name, tensor in tensors.items():
        with graph.inserting_after(value):
            made = graph.call_function(_STEPS[name], (value, tensor))
        made.meta = dict(result.meta)
        if target is _GROUP:
            shape = (-1, *[1] * (len(result.meta["shape"]) - 2))
            with graph.inserting_before(made):
                view = graph.call_function(torch.ops.aten.view.default, (tensor, shape))
            view.meta = {**tensor.meta, "shape": (tensor.meta["shape"][0], *shape[1:])}
            made.args = (value, view)
        value = made
    for user in users:
        user.replace_input_with(result, value)


SCALE_APART = FxRule("norms apart from what scales them", frozenset(_PLACES), _scale_apart)
