"""Origins: what the values of a recorded graph depend on, those that a rewrite inserts included."""

from collections.abc import Container
from typing import Any

from torch import fx


class Origins:
    """What every value of a graph depends on. Each node is looked at once, after what it reads."""

    def __init__(self, graph: fx.Graph, paths: Container[str]) -> None:
        self.graph, self.paths = graph, paths
        self.inputs: set[fx.Node] = set()
        self.stored: set[fx.Node] = set()

    def see(self, node: fx.Node) -> None:
        """Note what a node depends on."""
        parts = node.all_input_nodes
        if node.op == "placeholder" or any(part in self.inputs for part in parts):
            self.inputs.add(node)
        if (node.op == "get_attr" and str(node.target) in self.paths) or any(part in self.stored for part in parts):
            self.stored.add(node)

    def is_weight(self, node: Any) -> bool:
        """Whether a value depends on stored tensors, and on no input."""
        return isinstance(node, fx.Node) and node in self.stored and node not in self.inputs

    def is_constant(self, node: Any) -> bool:
        """Whether a value depends on nothing that changes."""
        return isinstance(node, fx.Node) and node not in self.stored and node not in self.inputs

    def insert(self, like: fx.Node, target: Any, args: tuple[Any, ...], shape: tuple[int, ...], **kwargs: Any) -> fx.Node:
        """Insert a call that belongs where another node does, where the graph inserts, and note what it depends on."""
        node = self.graph.call_function(target, args, kwargs)
        node.meta = {**like.meta, "shape": shape}
        self.see(node)
        return node
