"""Origins: which nodes of a recorded graph depend on inputs, and which on stored tensors."""

from collections.abc import Container
from typing import Any

from torch import fx


class Origins:
    """Knows which nodes depend on inputs and on stored tensors. Each node is visited once, after the nodes that it reads."""

    def __init__(self, graph: fx.Graph, paths: Container[str]) -> None:
        self.graph, self.paths = graph, paths
        self.inputs: set[fx.Node] = set()
        self.stored: set[fx.Node] = set()

    def see(self, node: fx.Node) -> None:
        """Note whether a node depends on inputs, and whether on stored tensors."""
        parts = node.all_input_nodes
        if node.op == "placeholder" or any(part in self.inputs for part in parts):
            self.inputs.add(node)
        if (node.op == "get_attr" and str(node.target) in self.paths) or any(part in self.stored for part in parts):
            self.stored.add(node)

    def is_weight(self, node: Any) -> bool:
        """Whether a value depends on stored tensors, and on no input."""
        return isinstance(node, fx.Node) and node in self.stored and node not in self.inputs

    def is_constant(self, node: Any) -> bool:
        """Whether a value depends neither on inputs nor on stored tensors."""
        return isinstance(node, fx.Node) and node not in self.stored and node not in self.inputs

    def insert(self, like: fx.Node, target: Any, args: tuple[Any, ...], shape: tuple[int, ...], **kwargs: Any) -> fx.Node:
        """Insert a call at the graph's insertion point, with the metadata of the node `like`, and note its origins."""
        node = self.graph.call_function(target, args, kwargs)
        node.meta = {**like.meta, "shape": shape}
        self.see(node)
        return node
