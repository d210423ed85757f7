"""Constant folding: the values that a captured graph computes from constants alone (tables, index tensors, masks)."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.fx.node import map_arg

from fxmap.graph.kinds import Trait, draws, has, kind_of
from fxmap.model.tensors import is_whole


class Constants:
    """The nodes of a graph whose values depend on no input and no parameter, and their values, computed when asked for.

    With `buffers`, tables that a model keeps in its state dict count as constants; else no tensor of the state dict does.
    """

    def __init__(
        self, graph: fx.Graph, tensors: Mapping[str, Tensor], constants: Mapping[str, Tensor], *, buffers: bool
    ) -> None:
        self.tensors, self.constants = tensors, constants
        self._values: dict[fx.Node, Any] = {}
        # In order, since some may write into what others read.
        self.nodes: dict[fx.Node, None] = {}
        for node in graph.nodes:
            if self._is_table(node, buffers) or self._is_computed(node):
                self.nodes[node] = None
        self._written = any(_writes(node) for node in self.nodes)

    def _is_table(self, node: fx.Node, buffers: bool) -> bool:
        if node.op != "get_attr":
            return False
        path = str(node.target)
        if path not in self.tensors:
            return path in self.constants
        tensor = self.tensors[path]
        return is_whole(tensor) or (not isinstance(tensor, nn.Parameter) and (buffers or tensor.is_complex()))

    def _is_computed(self, node: fx.Node) -> bool:
        if node.op != "call_function" or draws(getattr(node.target, "__name__", "")):
            return False
        if has(kind_of(node), Trait.FILLED):
            return all("shape" in part.meta for part in node.all_input_nodes)
        return all(part in self.nodes for part in node.all_input_nodes)

    def value(self, node: fx.Node) -> Any:
        """Return the value of one of the nodes.

        Raises:
            RuntimeError, NotImplementedError: it cannot be computed: the model is on the meta device, for one.
        """
        if self._written and not self._values:
            self._compute_all()
        if node not in self._values:
            if self._written:
                raise RuntimeError(f"{node} cannot be computed from constants alone")
            self._values[node] = self._computed(node)
        return self._values[node]

    def _compute_all(self) -> None:
        """Compute every node, in graph order; a node that fails has no value, and neither have its consumers."""
        for node in self.nodes:
            if has(kind_of(node), Trait.FILLED) or all(part in self._values for part in node.all_input_nodes):
                with suppress(RuntimeError, NotImplementedError):
                    self._values[node] = self._computed(node)

    def _computed(self, node: fx.Node) -> Any:
        if has(kind_of(node), Trait.FILLED):
            # What is filled like integers holds integers: indices of a table are computed of them.
            return call(node, lambda part: torch.empty(part.meta["shape"], dtype=part.meta.get("dtype")))
        if node.op != "get_attr":
            return call(node, self._values.__getitem__ if self._written else self.value, cast=True)
        path = str(node.target)
        value = self.tensors[path] if path in self.tensors else self.constants[path]
        return value.clone() if self._written else value


def _writes(node: fx.Node) -> bool:
    """Whether a node writes into one of its arguments: a table that is filled step by step."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def call(node: fx.Node, value: Callable[[fx.Node], Any], *, cast: bool = False) -> Any:
    """Call the function of an fx node on new values of its arguments.

    Only with `cast` do values change their dtype: element numbers that stand in for a tensor's values keep theirs.
    """
    args: Any = map_arg(node.args, value)
    kwargs: Any = map_arg(node.kwargs, value)
    if has(kind_of(node), Trait.VIEW):
        # These values need not lie in memory as those of the run did, for which a view was enough.
        return args[0].reshape(args[1])
    if has(kind_of(node), Trait.IDENTITY) and not (cast and "dtype" in kwargs):
        return args[0]
    return node.target(*args, **kwargs)  # type: ignore[operator]
