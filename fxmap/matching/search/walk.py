"""Search: find pairs of corresponding layers by running both models on the same weights.

Idea: backtracking search, guided by values. The source is run once, on random weights. The destination is run beside it,
operation by operation, and its weights are chosen as they are needed: if the inputs of a destination layer are known to be
values of the source, its candidates are the source layers of its kind and shape with the same inputs; it gets the weights of
one of them, and its output must be the output of that one. Two tensors hold the same value if their fingerprints, which no
data movement changes, are equal. So windows, masks, fused attention and activations spelled out need no rule: only layers
with weights are matched, whatever stands between them.

Layers with equal inputs and equal shapes (q, k and v; gate and up; parallel branches) all agree at their own outputs. They
are ordered by structure first, and exchanged when a value that must appear further down does not: the search goes back to
the last such group. The exchange that helped is tried first in the next layer that looks the same, so that depth costs
nothing.

>>> from torch import nn
>>> from fxmap.capture.recorded import capture_run
>>> from fxmap.model.inputs import Inputs
>>> class Net(nn.Module):
...     def __init__(self):
...         super().__init__()
...         self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)
...     def forward(self, x):
...         return self.a(x) - self.b(x)
>>> class Renamed(nn.Module):
...     def __init__(self):
...         super().__init__()
...         self.b, self.a = nn.Linear(3, 4), nn.Linear(3, 4)
...     def forward(self, x):
...         return self.b(x).add(self.a(x).neg())
>>> inputs = Inputs((torch.ones(2, 3),), {}, roomy=True, size="(2, 3)")
>>> src, dst = (Network.of(capture_run(model.eval(), inputs)) for model in (Net(), Renamed()))
>>> pairs, _ = search(src, dst, Alignment((), 0.0))
>>> [(src.ops.op(one).module, dst.ops.op(other).module) for one, other in pairs]
[('a', 'b'), ('b', 'a')]

Cost: one run of each model, and a part of a run for each exchange that is tried; `SearchLimits` bounds their number.

Source: backtracking and its order of choices as in J. R. Ullmann, JACM 23 (1976) 31-42, doi:10.1145/321921.321925; deciding
equality of programs by values on random inputs: J. T. Schwartz, JACM 27 (1980) 701-717, doi:10.1145/322217.322225.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from fxmap.matching.align.alignment import Alignment
from fxmap.matching.align.signatures import Labels
from fxmap.matching.derive.derivation import Orders
from fxmap.matching.search.choices import LIMITS, Choices, Group, other_orders
from fxmap.matching.search.destination import DestinationRun
from fxmap.matching.search.fingerprint import fingerprint, same_prints
from fxmap.matching.search.layers import RecordedLayer, recorded_layers
from fxmap.matching.search.source import SourceRun
from fxmap.matching.search.weights import give_weights, reorder_channels
from fxmap.model.kernels import DoubleKernels
from fxmap.normalize.network import Network


def search(src: Network, dst: Network, prior: Alignment) -> tuple[list[tuple[str, str]], Orders]:
    """Return pairs of layers, source and destination by name, whose values agree on random weights.

    Also returned are orders of input channels, for destination layers that read theirs in another order.

    Both are recorded runs, and are run again on the inputs of the recording. `prior` is the alignment by structure: its
    pairs are tried first, and are used where no value fits.
    """
    labels = Labels()
    with DoubleKernels(), torch.no_grad():
        source = SourceRun(src, recorded_layers(src, labels))
        walk = _Walk(source, dst, recorded_layers(dst, labels), prior)
        return walk.run(), walk.columns


class _Walk:
    """The walk through the destination: it chooses a partner for every layer, and goes back where choices were wrong."""

    def __init__(self, source: SourceRun, captured: Network, found: list[RecordedLayer], prior: Alignment) -> None:
        self.source = source
        self.destination = DestinationRun(source, captured)
        self.choices = Choices({pair.dst: pair.src for pair in prior.pairs})
        self.starts: dict[fx.Node, list[RecordedLayer]] = defaultdict(list)
        for layer in found:
            self.starts[layer.start].append(layer)
        # The layers whose values agree with those of their partners; and the order of input channels of some.
        self.agreed: set[str] = set()
        self.columns: dict[str, tuple[int, ...]] = {}

    def run(self) -> list[tuple[str, str]]:
        """Walk through the destination, and return the pairs whose values agree."""
        self._advance(0, len(self.destination.nodes), go_back=True)
        return [(partner.name, name) for name, partner in self.choices.partners.items() if name in self.agreed]

    def _advance(self, begin: int, end: int, *, go_back: bool) -> None:
        """Run the nodes from position `begin` to `end`, and choose partners for the layers that start there."""
        self.destination.rewind(begin)
        for node in self.destination.nodes[begin:end]:
            if node in self.starts or node.op == "output":
                if go_back and self._unmet(node):
                    self._go_back(node)
                self._meet(node)
            if node.op != "output" and node not in self.destination.weights:
                self.destination.value(node)

    def _unmet(self, node: fx.Node) -> int:
        """Count a node's unmet needs: layers starting at it without a fitting partner, or outputs unknown to the source."""
        if node.op == "output":
            return sum(not place for place in self.destination.places(node.all_input_nodes))
        return sum(layer.form in self.source.layers and not self._fitting(layer) for layer in self.starts[node])

    def _fitting(self, layer: RecordedLayer) -> list[RecordedLayer]:
        """Return the source layers of a layer's form that read the same values."""
        candidates = self.source.layers[layer.form]
        if not candidates:
            return []
        places = self.destination.places(layer.inputs)
        return [other for other in candidates if self.source.reads(other, places)]

    # -- at a layer ---------------------------------------------------------------------------------------------------

    def _meet(self, start: fx.Node) -> None:
        """Give the layers that start at a node the weights of their partners, and compare their outputs."""
        layers = self.starts.get(start, [])
        for layer in layers:
            if layer.name not in self.choices.partners:
                self.choices.choose(layer, self._fitting(layer), self.source.layers[layer.form])
        give_weights(self.source, self.destination, layers, self.choices.partners)
        for layer in layers:
            self._compare(layer)

    def _compare(self, layer: RecordedLayer) -> None:
        """Compare a layer's output with its partner's; if they differ, continue with the partner's."""
        self.agreed.discard(layer.name)
        self.columns.pop(layer.name, None)
        partner = self.choices.partners.get(layer.name)
        value = None if partner is None else self.destination.value(layer.output)
        if partner is None or not isinstance(value, Tensor):
            return
        expected = self.source.values[partner.output]
        moments = fingerprint(partner.read(expected))
        if same_prints(fingerprint(layer.read(value)), moments):
            self.agreed.add(layer.name)
            return
        order = reorder_channels(self.source, self.destination, layer, partner, moments)
        if order is not None:
            self.agreed.add(layer.name)
            self.columns[layer.name] = order
        elif value.shape == expected.shape:
            self.destination.go_on_with(layer.output, expected)

    # -- going back ---------------------------------------------------------------------------------------------------

    def _go_back(self, goal: fx.Node) -> None:
        """Exchange the layers of earlier groups, the last group first, until a node has fewer unmet needs (see `_unmet`)."""
        end, unmet = self.destination.position[goal], self._unmet(goal)
        for group in self._groups_before(goal):
            before = self.choices.of(group)
            for order in other_orders(group.choices, before):
                self._retry(group, order, end)
                if self._unmet(goal) < unmet:
                    self.choices.learn(group)
                    return
            self._retry(group, before, end)
            group.exhausted = True

    def _groups_before(self, goal: fx.Node) -> list[Group]:
        """Return the last groups that a node depends on and that are not exhausted, the last one first."""
        ancestors, queue = {goal}, [goal]
        while queue:
            for part in queue.pop().all_input_nodes:
                if part not in ancestors:
                    ancestors.add(part)
                    queue.append(part)
        found = [
            group
            for group in self.choices.groups.values()
            if not group.exhausted and any(layer.output in ancestors for layer in group.members)
        ]
        found.sort(key=lambda group: -self.destination.position[group.members[-1].start])
        return found[: LIMITS.groups]

    def _retry(self, group: Group, order: Sequence[RecordedLayer], end: int) -> None:
        """Run again from a group on, with other partners of its members, without further backtracking."""
        position = self.destination.position
        begin = min(position[layer.start] for layer in group.members)
        later = {layer.name for found in self.starts.values() for layer in found if position[layer.start] >= begin}
        self.choices.retake(group, order, later)
        self._advance(begin, end, go_back=False)
