"""Static: a graph in which sizes depend on data, with all rows in the place of those that a mask selects.

    r, c = nonzero(m);  index_add(y, r, f(x[r], c))  =  index_add(y, R, f(x[R], C) * m[R, C]),  with R, C all positions of m

Holds where f works row by row, as an expert does on the tokens that are routed to it. Whether it does is not proven but
tried: the outputs have to stay the same. Only solving reads the new graph, whose values can be stacked over samples.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.normalize.network import Network
from fxmap.run.interpreter import ValueInterpreter
from fxmap.run.randomize import in_double

logger = logging.getLogger(__name__)

_aten = torch.ops.aten
_SAME = 1e-9


def static(network: Network) -> Network:
    """Return a network whose selections by masks are replaced where that leaves its outputs as they are; else itself.

    Cost: two runs, where there is a selection.
    """
    targets = {node.target for node in network.graph.nodes}
    if network.inputs is None or not targets & {_aten.nonzero.default}:
        return network
    values: dict[str, Any] = {}
    before = _run(network, values)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    returned = graph.graph_copy(network.graph, copies)
    graph.output(returned)
    for node in [node for node in graph.nodes if node.target is _aten.nonzero.default]:
        _take_all(graph, node, values)
    made = replace(network, graph=graph)
    try:
        after = _run(made, {})
    except Exception as error:  # whatever an operation raises on more rows than it was recorded with
        logger.info("all rows cannot be taken in the place of those that a mask selects: %s", error)
        return network
    same = all(
        a.shape == b.shape and float((a - b).abs().max()) <= _SAME * float(a.abs().max())
        for a, b in zip(before, after, strict=True)
        if a.is_floating_point()
    )
    return made if same else network


def _run(network: Network, values: dict[str, Any]) -> list[Tensor]:
    """Run a network on its inputs, keep all values by name, and return the tensors that it returns."""
    assert network.inputs is not None

    def keep(node: fx.Node, value: Any) -> Any:
        values[node.name] = value
        return value

    tensors = {path: in_double(tensor.detach()) for path, tensor in network.tensors.items()}
    with torch.no_grad():
        ValueInterpreter(network, tensors, keep).run(*network.arguments(network.inputs.double()))
    output = next(node for node in network.graph.nodes if node.op == "output")
    return [values[node.name] for node in output.all_input_nodes if isinstance(values[node.name], Tensor)]


def _take_all(graph: fx.Graph, found: fx.Node, values: dict[str, Any]) -> None:
    """Let a selection take all positions, and what is added up by it only what the mask has."""
    mask = found.args[0]
    assert isinstance(mask, fx.Node)
    count, every = len(values[found.name]), prod(values[mask.name].shape)
    with graph.inserting_before(found):
        ones = graph.call_function(_aten.ones_like.default, (mask,))
        found.update_arg(0, ones)
    for node in list(_behind(found)):
        if node.target is _aten.index_add.default:
            value = values[node.args[3].name] if isinstance(node.args[3], fx.Node) else None
            if isinstance(value, Tensor) and node.args[1] == 0 and len(value) == count:
                with graph.inserting_before(node):
                    shape = [every] + [1] * (value.dim() - 1)
                    kept = graph.call_function(_aten.reshape.default, (mask, shape))
                    node.update_arg(3, graph.call_function(_aten.mul.Tensor, (node.args[3], kept)))
        elif len(node.args) > 1 and isinstance(node.args[1], list | tuple) and node.args[1][:1] == [count]:
            node.update_arg(1, [every, *node.args[1][1:]])


def _behind(node: fx.Node) -> Iterator[fx.Node]:
    """Yield what depends on a node, up to where it is added up."""
    waiting, met = list(node.users), set[fx.Node]()
    while waiting:
        user = waiting.pop()
        if user not in met:
            met.add(user)
            yield user
            waiting += [] if user.target is _aten.index_add.default else list(user.users)
