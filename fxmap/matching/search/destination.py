"""The run of the destination, node by node, with weights that are set on the way and may be changed again."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, fx

from fxmap.matching.search.fingerprint import fingerprint, is_data, single
from fxmap.matching.search.layers import RecordedLayer
from fxmap.matching.search.source import SourceRun, arguments_of
from fxmap.normalize.network import Network
from fxmap.run.interpreter import ValueInterpreter


class DestinationRun:
    """Values of the destination's nodes, computed on demand and cached until they are forgotten.

    `tensors` are the weights by path. A caller that changes one must forget the values that were computed with it.
    """

    def __init__(self, source: SourceRun, captured: Network) -> None:
        self.captured = captured
        self.nodes = list(captured.graph.nodes)
        self.position = {node: index for index, node in enumerate(self.nodes)}
        self.weights = {node for node in self.nodes if node.name in captured.ops.weights}
        self.tensors = {path: single(tensor.detach()) for path, tensor in captured.tensors.items()}
        self._source = source
        self._interpreter = ValueInterpreter(captured, self.tensors)
        placeholders = [node for node in self.nodes if node.op == "placeholder"]
        self._inputs = dict(zip(placeholders, arguments_of(captured), strict=False))
        # The numbers of the source's values that a cached value is equal to.
        self._places: dict[fx.Node, frozenset[int]] = {}

    def rewind(self, begin: int) -> None:
        """Forget the values of all nodes from position `begin` on, and of weights."""
        env = self._interpreter.env
        self._forget(node for node in list(env) if self.position[node] >= begin or node in self.weights)
        env.update(self._inputs)

    def value(self, node: fx.Node) -> object:
        """Return the value of a node; compute it, and the values that it reads, if they are not cached."""
        env = self._interpreter.env
        if node not in env:
            for part in node.all_input_nodes:
                self.value(part)
            env[node] = self._interpreter.run_node(node)
        return env[node]

    def places(self, nodes: Sequence[fx.Node]) -> list[frozenset[int]]:
        """Return, for every node with a floating-point tensor, the numbers of the source's values that it is equal to."""
        places = []
        for node in nodes:
            value = self.value(node)
            if is_data(value):
                if node not in self._places:
                    self._places[node] = self._source.same(fingerprint(value))
                places.append(self._places[node])
        return places

    def go_on_with(self, node: fx.Node, value: Tensor) -> None:
        """Replace the value of a node."""
        self._interpreter.env[node] = value
        self._places.pop(node, None)

    def forget_weights(self) -> None:
        """Forget the values that depend on weights alone."""
        for node in self.weights & self._interpreter.env.keys():
            del self._interpreter.env[node]

    def write(self, layer: RecordedLayer, tensors: Mapping[str, Tensor]) -> None:
        """Set weights of a layer, and forget the values from its start to its output, which were computed with them."""
        self.tensors.update(tensors)
        self.forget_weights()
        self._forget(self.nodes[self.position[layer.start] : self.position[layer.output] + 1])

    def _forget(self, nodes: Iterable[fx.Node]) -> None:
        for node in nodes:
            self._interpreter.env.pop(node, None)
            self._places.pop(node, None)
