"""Repeats: f(x) that is computed twice is one value.

Code computes a mask in every layer, or an activation once for each head of a list, where other code does so once. Two calls
of one function with the same arguments are one operation, unless the function draws numbers or tensors are written to.

>>> import torch
>>> graph = fx.Graph()
>>> x = graph.placeholder("x")
>>> a, b = (graph.call_function(torch.relu, (x,)) for _ in range(2))
>>> c, d = (graph.call_function(torch.tanh, (y,)) for y in (a, b))
>>> repeats(graph) == {b: a, d: c}
True

Cost: linear in the nodes and their arguments.
"""

from torch import fx
from torch.fx.node import map_arg

from fxmap.graph.kinds import draws


def repeats(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Return the calls that compute what an earlier one has computed, each with the first such call."""
    if any(_writes(node) for node in graph.nodes):
        return {}
    found: dict[fx.Node, fx.Node] = {}
    met: dict[tuple[object, ...], fx.Node] = {}
    for node in graph.nodes:
        if node.op not in ("call_function", "call_method", "get_attr") or _is_new(_name(node)):
            continue
        own = [map_arg(value, lambda part: found.get(part, part)) for value in (node.args, node.kwargs)]
        first = met.setdefault((node.op, node.target, *map(str, own)), node)
        if first is not node:
            found[node] = first
    return {node: first for node, first in found.items() if node.op != "get_attr"}


def _is_new(name: str) -> bool:
    """Whether each call returns something else: drawn numbers, or memory as it is."""
    return draws(name) or "empty" in name


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _writes(node: fx.Node) -> bool:
    name = _name(node).partition(".")[0]
    return node.op.startswith("call") and (name in ("setitem", "__setitem__") or (name.endswith("_") and name[-2:] != "__"))
