"""The driver of rewrites of recorded graphs: one sweep in topological order, which visits every node once.

A recorded graph lists nodes in the order in which they were computed, and a rewrite inserts nodes before the one that it
replaces. So when the sweep reaches a node, its inputs have been rewritten already, and no worklist is needed.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxmap.capture.rewrites.origins import Origins


@dataclass(frozen=True, slots=True)
class FxRule:
    """A rewrite rule of recorded graphs: its name, the call targets at which it may apply, and the function that applies it.

    `apply` returns the node that replaces the one that it was called with, that node itself if it was changed in place, or
    a reason why the rule does not apply.
    """

    name: str
    targets: frozenset[Callable[..., Any]]
    apply: Callable[[fx.Node, Origins], fx.Node | str]


def sweep(graph: fx.Graph, paths: Container[str], rules: Sequence[FxRule]) -> dict[str, str]:
    """Apply rules to a graph in place, the first one that applies at each node; `paths` are those of its stored tensors.

    Returns the names of the replaced nodes, each with the name of its replacement. Linear in the number of nodes.
    """
    replaced: dict[str, str] = {}
    origins = Origins(graph, paths)
    for node in list(graph.nodes):
        origins.see(node)
        for rule in rules:
            made = rule.apply(node, origins) if node.target in rule.targets else ""
            if isinstance(made, fx.Node) and made is not node:
                node.replace_all_uses_with(made)
                graph.erase_node(node)
                replaced[node.name] = made.name
                break
    return replaced
