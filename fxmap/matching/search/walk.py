"""Search: values decide which operation is which.

The source is run once, on random weights. The destination is run beside it, operation by operation, and its weights are
found as they are needed: a destination layer whose inputs are known to be values of the source has as candidates the source
layers of its kind and shape with the same inputs; it gets the weights of one, and its output must be that one's. That two
tensors hold the same value is told by a fingerprint that no data movement changes, so that windows, masks, fused attention
and activations spelled out need no rule: only layers with weights are matched, whatever stands between them.

Layers with equal inputs and equal shapes (q, k and v; gate and up; parallel branches) all agree at their own outputs. They
are ordered by structure first, and exchanged when a value that must appear further down does not. The exchange that helped
is the first one tried in the next layer that looks the same, so that depth costs nothing.

Cost: one run of each model, and a part of a run for each exchange that is tried.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, permutations

import torch
from torch import Tensor, fx

from fxmap.matching.align import signatures
from fxmap.matching.align.alignment import Alignment, Evidence, Pair
from fxmap.matching.derive.derivation import Orders, derive_operands, in_stored_sources, in_stored_tensors
from fxmap.matching.search.channels import order_of_channels
from fxmap.matching.search.fingerprint import fingerprint, is_data, same_prints, single
from fxmap.matching.search.layers import Layer, layers
from fxmap.matching.search.source import SourceRun, arguments_of
from fxmap.model.kernels import DoubleKernels
from fxmap.normalize.network import Network
from fxmap.run.interpreter import ValueInterpreter

# How many exchanges of one group of layers are tried, and how many groups back.
_EXCHANGES = 120


_GROUPS = 4


# Groups up to this size are tried in every order, larger ones by exchanges of two alone.
_SMALL = 5


def search(src: Network, dst: Network, prior: Alignment) -> tuple[list[tuple[str, str]], Orders]:
    """Return pairs of layers, source and destination by name, whose values agree on random weights.

    Also returned are orders of input channels, for destination layers that read theirs in another order.

    Both are recorded runs, and are run again on the inputs of the recording. `prior` is the alignment by structure: its
    pairs are tried first, and stand in where no value fits.
    """
    labels = signatures.Labels()
    with DoubleKernels(), torch.no_grad():
        source = SourceRun(src, layers(src, labels))
        walk = _Walk(source, dst, layers(dst, labels), prior)
        return walk.run(), walk.columns


@dataclass
class _Group:
    """Destination layers with equal inputs and forms, and the source layers that read the same.

    Which is which is a choice; a group is exhausted when all were tried and none helped.
    """

    choices: tuple[Layer, ...]
    members: list[Layer] = field(default_factory=list)
    exhausted: bool = False


class _Walk:
    """The run of the destination beside the source's values."""

    def __init__(self, source: SourceRun, captured: Network, found: list[Layer], prior: Alignment) -> None:
        self.source, self.captured = source, captured
        self.prior = {pair.dst: pair.src for pair in prior.pairs}
        self.nodes = list(captured.graph.nodes)
        self.position = {node: index for index, node in enumerate(self.nodes)}
        self.weights = {node for node in self.nodes if node.name in captured.ops.weights}
        self.starts: dict[fx.Node, list[Layer]] = defaultdict(list)
        for layer in found:
            self.starts[layer.start].append(layer)
        self.tensors = {path: single(tensor.detach()) for path, tensor in captured.tensors.items()}
        self.interpreter = ValueInterpreter(captured, self.tensors)
        placeholders = [node for node in self.nodes if node.op == "placeholder"]
        self.inputs = dict(zip(placeholders, arguments_of(captured), strict=False))
        # What every layer is for now; and those of them whose values agree.
        self.partners: dict[str, Layer] = {}
        self.agreed: set[str] = set()
        self.columns: dict[str, tuple[int, ...]] = {}
        self.groups: dict[Hashable, _Group] = {}
        # Which values of the source a value is, for as long as it stands.
        self.places: dict[fx.Node, frozenset[int]] = {}
        # Labels of pairs that an exchange has shown to be right: what the next layer that looks the same tries first.
        self.learned: set[tuple[int, int]] = set()

    def run(self) -> list[tuple[str, str]]:
        """Walk through the destination, and return the pairs whose values agree."""
        self._advance(0, len(self.nodes), exchange=True)
        return [(self.partners[name].name, name) for name in self.partners if name in self.agreed]

    def _advance(self, begin: int, end: int, *, exchange: bool) -> None:
        """Run a stretch of nodes, and find the weights of the layers that begin in it."""
        env = self.interpreter.env
        for node in [node for node in env if self.position[node] >= begin or node in self.weights]:
            del env[node]
            self.places.pop(node, None)
        env.update(self.inputs)
        for node in self.nodes[begin:end]:
            if node in self.starts or node.op == "output":
                if exchange and self._unmet(node):
                    self._exchange(node)
                self._meet(node)
            if node.op != "output" and node not in self.weights:
                self._value(node)

    def _value(self, node: fx.Node) -> object:
        env = self.interpreter.env
        if node not in env:
            for part in node.all_input_nodes:
                self._value(part)
            env[node] = self.interpreter.run_node(node)
        return env[node]

    def _places(self, nodes: Sequence[fx.Node]) -> list[frozenset[int]]:
        """Return, for every floating-point value, which values of the source it is."""
        places = []
        for node in nodes:
            value = self._value(node)
            if is_data(value):
                if node not in self.places:
                    self.places[node] = self.source.same(fingerprint(value))
                places.append(self.places[node])
        return places

    def _fitting(self, layer: Layer) -> list[Layer]:
        """Return the source layers of a layer's form that read the same values."""
        candidates = self.source.layers[layer.form]
        if not candidates:
            return []
        places = self._places(layer.inputs)
        return [other for other in candidates if self.source.reads(other, places)]

    def _unmet(self, node: fx.Node) -> int:
        """Count what must be there and is not: partners of the layers that a node begins, or the outputs."""
        if node.op == "output":
            return sum(not place for place in self._places(node.all_input_nodes))
        return sum(layer.form in self.source.layers and not self._fitting(layer) for layer in self.starts[node])

    # -- choices ------------------------------------------------------------------------------------------------------

    def _meet(self, start: fx.Node) -> None:
        """Give the layers that one node begins their weights, and go on with the source's values where they differ."""
        members = self.starts.get(start, [])
        for layer in members:
            if layer.name not in self.partners:
                self._choose(layer)
        self._assign(members)
        for layer in members:
            self._settle(layer)

    def _choose(self, layer: Layer) -> None:
        taken = {partner.name for partner in self.partners.values()}
        fitting = self._fitting(layer)
        free = [other for other in fitting or self.source.layers[layer.form] if other.name not in taken]
        free.sort(key=lambda other: self._unlikeness(layer, other))
        if not free or not (fitting or self._resembles(layer, free[0])):
            return
        self.partners[layer.name] = free[0]
        if len(fitting) > 1:
            key = (layer.form, tuple(other.name for other in fitting))
            self.groups.setdefault(key, _Group(tuple(fitting))).members.append(layer)

    def _unlikeness(self, layer: Layer, other: Layer) -> tuple[bool, bool, int]:
        labels = list(zip(other.likeness, layer.likeness, strict=True))
        return (
            not any(pair in self.learned for pair in labels),
            self.prior.get(layer.name) != other.name,
            -sum(a == b for a, b in labels),
        )

    def _resembles(self, layer: Layer, other: Layer) -> bool:
        return self.prior.get(layer.name) == other.name or layer.likeness[0] == other.likeness[0]

    def _assign(self, members: Sequence[Layer]) -> None:
        """Make the tensors that layers read from those of their partners."""
        pairs = tuple(Pair(self.partners[m.name].name, m.name, Evidence.VALUES) for m in members if m.name in self.partners)
        ours, theirs = self.source.captured.ops, self.captured.ops
        operands = derive_operands(ours, theirs, Alignment(pairs, 1.0))
        made = in_stored_tensors(operands, ours, theirs).expressions
        for path, expression in made.items():
            value = expression.evaluate(self.source.tensors, quantized=False)
            if value.shape == self.tensors[path].shape:
                self.tensors[path] = value
        if theirs.computed:
            self._forget_weights()
        for name in operands.expressions.keys() & theirs.composed.keys():
            # A part of a tensor whose other parts are not known yet: an expert in a stack.
            if theirs.numbering is not None and not made.keys() >= set(theirs.parts(name)):
                value = in_stored_sources(operands.expressions[name], ours).evaluate(self.source.tensors, quantized=False)
                self.tensors.update(theirs.numbering.write(theirs.composed[name], value, self.tensors))
                self._forget_weights()

    def _forget_weights(self) -> None:
        for node in self.weights & self.interpreter.env.keys():
            del self.interpreter.env[node]

    def _settle(self, layer: Layer) -> None:
        """Compare a layer's output with its partner's; where they differ, go on with the partner's."""
        self.agreed.discard(layer.name)
        self.columns.pop(layer.name, None)
        if layer.name not in self.partners:
            return
        expected = self.source.values[self.partners[layer.name].output]
        value = self._value(layer.output)
        if not isinstance(value, Tensor):
            return
        ours = fingerprint(self.partners[layer.name].read(expected))
        if same_prints(fingerprint(layer.read(value)), ours) or self._reorder(layer, ours):
            self.agreed.add(layer.name)
        elif value.shape == expected.shape:
            self.interpreter.env[layer.output] = expected
            self.places.pop(layer.output, None)

    def _reorder(self, layer: Layer, expected: Tensor) -> bool:
        """Put the input channels of a layer into the order in which it reads them, if that makes its output the expected."""
        weight = self.captured.ops.tensors(layer.name).get("weight")
        inputs = layer.inputs, self.partners[layer.name].inputs
        if weight is None or weight.key not in self.tensors or any(len(nodes) != 1 for nodes in inputs):
            return False
        op = self.captured.ops.op(layer.name)
        axis = {"convolution": 1, "linear": -1}.get(op.kind)
        ours, theirs = self.source.values.get(inputs[1][0]), self._value(inputs[0][0])
        if axis is None or op.attribute("groups", 1) != 1 or op.attribute("axes"):
            return False
        if not is_data(ours) or not is_data(theirs):
            return False
        order = order_of_channels(*(value.movedim(axis, 0).flatten(1) for value in (ours, theirs)))
        before = self.tensors[weight.key]
        if order is None or before.shape[1] != len(order):
            return False
        self._write(layer, weight.key, before[:, list(order)])
        value = self._value(layer.output)
        if isinstance(value, Tensor) and same_prints(fingerprint(layer.read(value)), expected):
            self.columns[layer.name] = order
            return True
        self._write(layer, weight.key, before)
        return False

    def _write(self, layer: Layer, path: str, value: Tensor) -> None:
        """Set a tensor, and forget what was computed with it."""
        self.tensors[path] = value
        self._forget_weights()
        for node in self.nodes[self.position[layer.start] : self.position[layer.output] + 1]:
            self.interpreter.env.pop(node, None)
            self.places.pop(node, None)

    # -- going back ---------------------------------------------------------------------------------------------------

    def _exchange(self, goal: fx.Node) -> None:
        """Exchange the layers of earlier groups, the last group first, until what a node needs is there."""
        end, unmet = self.position[goal], self._unmet(goal)
        for group in self._behind(goal):
            before = [self.partners[layer.name] for layer in group.members]
            for order in _orders(group.choices, before):
                self._retry(group, order, end)
                if self._unmet(goal) < unmet:
                    self._learn(group)
                    return
            self._retry(group, before, end)
            group.exhausted = True

    def _behind(self, goal: fx.Node) -> list[_Group]:
        """Return the last groups that a node depends on and that have not been tried in vain, the last one first."""
        ancestors, queue = {goal}, [goal]
        while queue:
            for part in queue.pop().all_input_nodes:
                if part not in ancestors:
                    ancestors.add(part)
                    queue.append(part)
        found = [
            group
            for group in self.groups.values()
            if not group.exhausted and any(layer.output in ancestors for layer in group.members)
        ]
        found.sort(key=lambda group: -self.position[group.members[-1].start])
        return found[:_GROUPS]

    def _retry(self, group: _Group, order: Sequence[Layer], end: int) -> None:
        begin = min(self.position[layer.start] for layer in group.members)
        later = {layer.name for layers in self.starts.values() for layer in layers if self.position[layer.start] >= begin}
        for name in later:
            self.partners.pop(name, None)
        for other in self.groups.values():
            if other is not group:
                other.members = [layer for layer in other.members if layer.name not in later]
        self.partners.update({layer.name: partner for layer, partner in zip(group.members, order, strict=True)})
        self._advance(begin, end, exchange=False)

    def _learn(self, group: _Group) -> None:
        for layer in group.members:
            self.learned.update(zip(self.partners[layer.name].likeness, layer.likeness, strict=True))


def _orders(choices: Sequence[Layer], before: Sequence[Layer]) -> Iterator[list[Layer]]:
    """Yield other ways to pick as many of the choices as were picked before: exchanges of two first."""
    picked = list(before)
    rest = [choice for choice in choices if choice not in picked]
    everything = picked + rest
    swaps = []
    for i in range(len(picked)):
        for j in range(i + 1, len(everything)):
            order = everything.copy()
            order[i], order[j] = order[j], order[i]
            swaps.append(order[: len(picked)])
    yield from swaps[:_EXCHANGES]
    others = permutations(everything, len(picked)) if len(everything) <= _SMALL else iter(())
    for order in islice((list(order) for order in others), _EXCHANGES):
        if order != picked and order not in swaps:
            yield order
