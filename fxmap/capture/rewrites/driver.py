"""The driver of rewrites of recorded graphs: one sweep in the order of the run, every node once, after what it reads.

A recorded graph lists nodes in the order in which they were computed, and what a rewrite inserts stands before the node that
it replaces. So one sweep meets every value with what it reads rewritten already, and needs no worklist.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxmap.capture.rewrites.origins import Origins


@dataclass(frozen=True, slots=True)
class FxRule:
    """An equation between values of a recorded graph: its name, the calls that its left side may end with, what applies it.

    `apply` returns the node that takes the place of the one that it was asked at, that node itself where it was changed in
    place, or a reason why the equation does not apply.
    """

    name: str
    targets: frozenset[Callable[..., Any]]
    apply: Callable[[fx.Node, Origins], fx.Node | str]


def sweep(graph: fx.Graph, paths: Container[str], rules: Sequence[FxRule]) -> dict[str, str]:
    """Apply rules to a graph in place, the first one that applies at each node; `paths` are those of its stored tensors.

    Returns the name of each node that was replaced, with that of what took its place. Linear in the number of nodes.
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
