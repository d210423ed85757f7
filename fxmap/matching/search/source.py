"""The run of the source: the fingerprint of every value."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, fx

from fxmap.matching.search.fingerprint import SAME, fingerprint, is_data, single
from fxmap.matching.search.layers import RecordedLayer
from fxmap.normalize.network import Network
from fxmap.run.calibrator import run_calibrated
from fxmap.run.randomize import random_tensors


def arguments_of(captured: Network) -> list[Tensor]:
    """Return the inputs of a recorded run, in single precision, in the order of its placeholders."""
    assert captured.inputs is not None
    return captured.arguments(captured.inputs.map(single))


class SourceRun:
    """The run of the source: the fingerprint of every value, and its layers by form."""

    def __init__(self, captured: Network, found: list[RecordedLayer]) -> None:
        self.captured = captured
        generator = torch.Generator().manual_seed(0)
        # Single precision is enough to tell whether two values are the same.
        drawn = {path: single(tensor) for path, tensor in random_tensors(captured, generator).items()}
        returned = next(node for node in captured.graph.nodes if node.op == "output").all_input_nodes
        watched = {node for layer in found for node in (*layer.inputs, layer.output)} | set(returned)
        self.values: dict[fx.Node, Tensor] = {}
        prints: dict[fx.Node, Tensor] = {}

        def hook(node: fx.Node, value: object) -> object:
            if node in watched and is_data(value):
                prints[node] = fingerprint(value)
                self.values[node] = value.clone()
            return value

        self.tensors, _ = run_calibrated(captured, drawn, arguments_of(captured), generator, hook)
        self.nodes = list(prints)
        self.prints = torch.stack(list(prints.values())) if prints else torch.zeros(0, 4)
        self.number = {node: index for index, node in enumerate(self.nodes)}
        self.layers: dict[Hashable, list[RecordedLayer]] = defaultdict(list)
        for layer in found:
            if layer.output in self.values:
                self.layers[layer.form].append(layer)

    def reads(self, layer: RecordedLayer, places: Sequence[frozenset[int]]) -> bool:
        """Whether a layer reads the values with these numbers: one set of candidate numbers for each value."""
        numbers = {self.number[node] for node in layer.inputs if node in self.number}
        return len(numbers) == len(places) and all(not numbers.isdisjoint(place) for place in places)

    def same(self, fingerprint: Tensor) -> frozenset[int]:
        """Return the numbers of the source's values with an equal fingerprint."""
        distances = (self.prints - fingerprint).abs().amax(1)
        return frozenset((distances <= SAME).nonzero().flatten().tolist())
