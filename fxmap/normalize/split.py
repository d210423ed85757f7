"""Split joined layers: which output channels of a layer reach which consumer, by index propagation through data movement.

A joined projection (q, k and v as one linear layer) needs no rule of its own. Each element of the layer's output is given
the index of its channel, and these index tensors go through the same views, slices and joins as the values do. If consumers
see disjoint sets of channels, the layer is several in one, each of which owns some rows of the weight and the bias, in
whatever order or interleaving the code uses. The rows of each are listed in the order in which its consumer reads them, so
that layers which another model keeps apart, or joins differently, have the same order.

A rotary embedding mixes channels on the way: sums of channels times constants. Indices are propagated through it too, up to
the first product of two data tensors, and channels that were added to one another belong to one part. Its layouts
(half-split, interleaved, partial) differ by the order of the rows inside each head, which is found by impulse response: one
channel is 1 and all others are 0, and the response at the places of the others, its sign and frequency, tells which channel
it is. Rows are then listed by response, in the same order for every layout.
"""

import heapq
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.graph.constants import Constants, call
from fxmap.graph.index_maps import distinct
from fxmap.graph.kinds import Trait, has, kind_of, kinds
from fxmap.graph.opgraph import OpGraph
from fxmap.normalize.periods import by_channel, weighted

_COPIES = Trait.MOVEMENT | Trait.IDENTITY | Trait.ARRANGE | Trait.INDEX


_COPIES_AND_SUMS = _COPIES | Trait.SUM


# Two channels have the same response below this relative difference: responses are sums in float64 of tables in float32.
_SAME = 1e-3


def split_joined(ops: OpGraph, graph: fx.Graph, tensors: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> None:
    """Split every layer whose consumers see disjoint sets of its output channels, and order the rows of each part.

    Needs the shapes of values (`node.meta["shape"]`); layers whose shape is not known are left alone, and noted as
    `unsplit`. `tensors` and `constants` are what the graph reads. Linear in the number of operations, times the size of the
    values behind the layers that are split.
    """
    nodes = {node.name: node for node in graph.nodes}
    flow = _Flow(graph, tensors, constants)
    for op in ops.of_kind(kinds(Trait.OUTPUT_FIRST)):
        node = nodes.get(op.output)
        if node is None or not flow.parts(node):
            continue
        if "shape" not in node.meta:
            ops.unsplit.add(op.name)
            continue
        trace = flow.follow(node, op.channel_axis)
        parts = trace.joined()
        complete = sum(len(rows) for rows, _ in parts) == trace.channels and all(rows for rows, _ in parts)
        if complete and (len(parts) > 1 or trace.mixed):
            _split(ops, op.name, trace, [(flow.ordered(trace, rows, uses), uses) for rows, uses in parts])


@dataclass(frozen=True, slots=True)
class _Use:
    """A consumer, the node that it reads, and the channels that it sees, in its order."""

    user: fx.Node
    argument: fx.Node
    rows: tuple[int, ...]


@dataclass
class _Propagated:
    """The result of index propagation behind a layer: the channel of every element, and which channels were added up."""

    layer: fx.Node
    axis: int
    numbers: dict[fx.Node, Any] = field(default_factory=dict)
    uses: list[_Use] = field(default_factory=list)
    parent: dict[int, int] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """The number of output channels of the layer."""
        return int(self.layer.meta["shape"][self.axis])

    @property
    def mixed(self) -> bool:
        """Whether any channels were added to each other."""
        return bool(self.parent)

    def root(self, channel: int) -> int:
        """Return the representative of the channels that a channel was mixed with."""
        while channel in self.parent:
            channel = self.parent[channel]
        return channel

    def mix(self, ours: Tensor, theirs: Tensor) -> None:
        """Note that channels were added to one another, element by element; -1 is no channel."""
        both = torch.stack((ours.flatten(), theirs.flatten()))
        known = both[:, (both >= 0).all(0)]
        width = int(known.max()) + 1 if known.numel() else 1
        for a, b in (divmod(pair, width) for pair in distinct(known[0] * width + known[1])):
            roots = self.root(a), self.root(b)
            if roots[0] != roots[1]:
                self.parent[max(roots)] = min(roots)

    def joined(self) -> list[tuple[tuple[int, ...], list[_Use]]]:
        """Return the sets of channels that some consumer sees, those that overlap as one, with their consumers."""
        parts: list[tuple[set[int], list[_Use]]] = []
        for use in self.uses:
            roots, uses = {self.root(row) for row in use.rows}, [use]
            for part in [part for part in parts if not part[0].isdisjoint(roots)]:
                parts.remove(part)
                roots, uses = part[0] | roots, part[1] + uses
            parts.append((roots, uses))
        return [(self._order(uses), uses) for _, uses in parts]

    @staticmethod
    def _order(uses: list[_Use]) -> tuple[int, ...]:
        widest = max(uses, key=lambda use: len(use.rows))
        return tuple(dict.fromkeys(row for use in (widest, *uses) for row in use.rows))


class _Flow:
    """Propagates the channel indices of layers through a graph."""

    def __init__(self, graph: fx.Graph, tensors: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> None:
        self.position = {node: index for index, node in enumerate(graph.nodes)}
        self.known = Constants(graph, tensors, constants, buffers=True)

    def parts(self, layer: fx.Node) -> bool:
        """Whether some operation behind the layer splits its output, which for most layers is not so: a cheap first test."""
        queue, seen = [layer], {layer}
        while queue:
            for user in queue.pop().users:
                if user in seen or not self._passes(user, seen):
                    continue
                if has(kind_of(user), Trait.PART):
                    return True
                seen.add(user)
                queue.append(user)
        return False

    def _passes(self, node: fx.Node, seen: Any) -> bool:
        """Whether a node only moves channels, and adds them to one another times constants."""
        if node.op not in ("call_function", "call_method"):
            return False
        kind = kind_of(node)
        own = [part for part in node.all_input_nodes if part in seen]
        if len(own) + sum(part in self.known.nodes for part in node.all_input_nodes) < len(node.all_input_nodes):
            return False
        if has(kind, Trait.PRODUCT):
            # x * table, table * x and x / table scale; table / x and x * x do not.
            factors = [place for place, value in enumerate(node.args) if isinstance(value, fx.Node) and value in seen]
            return len(factors) == 1 and (kind == "mul" or factors == [0])
        return has(kind, _COPIES_AND_SUMS) or kind == "neg"

    def follow(self, layer: fx.Node, axis: int) -> _Propagated:
        """Propagate the channel numbers of a layer through the data movement behind it, up to its consumers."""
        shape = [1] * len(layer.meta["shape"])
        shape[axis] = -1
        trace = _Propagated(layer, axis)
        trace.numbers[layer] = torch.arange(trace.channels).view(shape).expand(layer.meta["shape"])
        for node in self._behind(trace.numbers):
            moved = self._move(node, trace) if self._passes(node, trace.numbers) else None
            if moved is not None:
                trace.numbers[node] = moved
                continue
            for part in node.all_input_nodes:
                numbers = trace.numbers.get(part)
                if isinstance(numbers, Tensor):
                    trace.uses.append(_Use(node, part, _order_met(numbers, trace.channels)))
        return trace

    def _behind(self, reached: dict[fx.Node, Any]) -> Iterator[fx.Node]:
        """Yield the consumers of the reached nodes in graph order, including nodes that are reached during the iteration."""
        heap: list[tuple[int, fx.Node]] = []
        seen: set[fx.Node] = set()

        def push(node: fx.Node) -> None:
            for user in node.users:
                if user not in seen:
                    seen.add(user)
                    heapq.heappush(heap, (self.position[user], user))

        for node in list(reached):
            push(node)
        while heap:
            _, node = heapq.heappop(heap)
            yield node
            if node in reached:
                push(node)

    def _move(self, node: fx.Node, trace: _Propagated) -> Any:
        """Return the channel of every element behind a step, of those that are added the one with the largest factor."""
        kind = kind_of(node)
        if has(kind, Trait.IDENTITY) or kind == "neg":
            return trace.numbers[node.all_input_nodes[0]]
        if has(kind, _COPIES):
            # Padding and constants are 0 there, which is no channel.
            try:
                moved = call(node, lambda part: self._shifted(part, trace))
            except (RuntimeError, NotImplementedError):
                return None  # constants have no values on the meta device
            return moved - 1 if isinstance(moved, Tensor) else [part - 1 for part in moved]
        added = sorted((p for p in node.all_input_nodes if p in trace.numbers), key=lambda p: -self._factor(p, trace))
        own = [trace.numbers[part].expand(node.meta["shape"]) for part in added]
        for other in own[1:]:
            trace.mix(own[0], other)
        return own[0] if len(own) == 1 else torch.where(own[0] >= 0, own[0], own[1])

    def _factor(self, node: fx.Node, trace: _Propagated) -> float:
        """Return the mean size of the tables that a value was multiplied by since the layer, or since channels were added.

        In a rotary embedding, of which the first position turns nothing, a channel's cosines are larger than its sines.
        """
        factor = 1.0
        while node is not trace.layer:
            inner = [part for part in node.all_input_nodes if part in trace.numbers]
            if len(inner) != 1:
                break
            for part in node.all_input_nodes if kind_of(node) == "mul" else ():
                if part not in trace.numbers:
                    with suppress(RuntimeError, NotImplementedError):  # no values on the meta device
                        factor *= float(self.known.value(part).abs().double().mean())
            node = inner[0]
        return factor

    def _shifted(self, part: fx.Node, trace: _Propagated) -> Any:
        if part in trace.numbers:
            numbers = trace.numbers[part]
            return numbers + 1 if isinstance(numbers, Tensor) else [number + 1 for number in numbers]
        value = self.known.value(part)
        return torch.zeros(value.shape, dtype=torch.int64) if value.is_floating_point() else value

    def ordered(self, trace: _Propagated, rows: tuple[int, ...], uses: list[_Use]) -> tuple[int, ...]:
        """Return the rows of a part in an order that no layout of a rotary embedding changes.

        Within a head all responses differ, so rows with equal responses belong to different heads.
        """
        if not trace.mixed:
            return rows
        rows = tuple(sorted(rows))
        try:
            given = self._responses(trace, rows, uses)
        except (RuntimeError, NotImplementedError):
            return rows  # constants have no values on the meta device: the order of the rows says nothing better
        alike: list[list[int]] = []
        for row in sorted(rows, key=lambda row: (given[row], row)):
            if alike and abs(given[row] - given[alike[-1][0]]) <= _SAME * abs(given[row]):
                alike[-1].append(row)
            else:
                alike.append([row])
        heads = math.gcd(*map(len, alike))
        for group in alike:
            group.sort()
        return tuple(
            row
            for head in range(heads)
            for group in alike
            for row in group[head * len(group) // heads : (head + 1) * len(group) // heads]
        )

    def _responses(self, trace: _Propagated, rows: tuple[int, ...], uses: list[_Use]) -> dict[int, float]:
        """Return each channel's response: fed alone, its effect at the places of other channels relative to that at its own.

        Later positions count more, so that tables with equal values in another order (rows and columns of an image) differ.
        Channels that are not mixed with one another are fed together.
        """
        mixed: dict[int, list[int]] = {}
        for row in rows:
            mixed.setdefault(trace.root(row), []).append(row)
        root = torch.tensor([trace.root(row) for row in range(trace.channels)])
        result: dict[int, float] = {}
        for turn in range(max(map(len, mixed.values()))):
            fed = {first: members[turn] for first, members in mixed.items() if turn < len(members)}
            values = self._run(trace, list(fed.values()))
            place = torch.cat([trace.numbers[use.argument].flatten() for use in uses])
            value = torch.cat([values[use.argument].flatten() for use in uses])
            source = torch.full((trace.channels,), -1)
            source[list(fed)] = torch.tensor(list(fed.values()))
            kept = (place >= 0) & (source[root[place]] >= 0)
            place, value = place[kept], value[kept]
            own = source[root[place]] == place
            size = torch.zeros(trace.channels, dtype=value.dtype)
            size.index_add_(0, place[own], value[own].abs())
            given = by_channel(source[root[place[~own]]], value[~own])
            sums = dict(zip(given, weighted(list(given.values())), strict=True))
            result |= {channel: sums.get(channel, 0.0) / float(size[channel]) for channel in fed.values()}
        return result

    def _run(self, trace: _Propagated, channels: list[int]) -> dict[fx.Node, Any]:
        """Evaluate the followed nodes on a layer output that is one in some channels and zero in the others."""
        shape = [1] * len(trace.layer.meta["shape"])
        shape[trace.axis] = -1
        start = torch.zeros(trace.channels, dtype=torch.float64)
        start[channels] = 1.0
        values: dict[fx.Node, Any] = {trace.layer: start.view(shape).expand(trace.layer.meta["shape"])}
        for node in trace.numbers:
            if node not in values:
                values[node] = call(node, lambda part: values[part] if part in values else self.known.value(part))
        return values


def _order_met(numbers: Tensor, channels: int) -> tuple[int, ...]:
    """Return the channels among some numbers, in the order in which they come first; -1 is none. Linear time.

    >>> _order_met(torch.tensor([[2, -1], [0, 2]]), 4)
    (2, 0)
    """
    flat = numbers.flatten() + 1
    first = torch.full((channels + 1,), len(flat))
    first.scatter_reduce_(0, flat, torch.arange(len(flat)), "amin")
    order = first[1:].argsort(stable=True)
    return tuple(order[: int((first[1:] < len(flat)).sum())].tolist())


def _split(ops: OpGraph, name: str, trace: _Propagated, parts: list[tuple[tuple[int, ...], list[_Use]]]) -> None:
    op = ops.op(name)
    for index, (rows, uses) in enumerate(parts):
        part = f"{name}#{index}"
        whole = rows == tuple(range(trace.channels))
        ops.add(replace(op, name=part, rows=None if whole else rows))
        for producer, _, argument in list(ops.network.in_edges(name, data="argument")):
            ops.network.add_edge(producer, part, argument=argument)
        for use in uses:
            if use.user.name not in ops.network:
                continue
            last = _present(ops, use.argument, trace, name)
            for producer, _, key, argument in list(ops.network.in_edges(use.user.name, keys=True, data="argument")):
                if producer == last:
                    ops.network.remove_edge(producer, use.user.name, key=key)
                    ops.network.add_edge(part, use.user.name, argument=argument)
    passed = {node.name: node for node in trace.numbers} | {name: trace.layer}
    _connect_merged(ops, name, trace, {key: node for key, node in passed.items() if key in ops.network}, parts)
    ops.network.remove_nodes_from([node for node in passed if node in ops.network])


def _connect_merged(
    ops: OpGraph,
    name: str,
    trace: _Propagated,
    passed: Mapping[str, fx.Node],
    parts: list[tuple[tuple[int, ...], list[_Use]]],
) -> None:
    """Connect what rules made of several steps, which stands where the last one stood, to the part whose rows it reads."""
    for producer, node in passed.items():
        numbers = trace.numbers.get(node)
        if not isinstance(numbers, Tensor):
            continue
        read = set(_order_met(numbers, trace.channels))
        part = next((f"{name}#{index}" for index, (rows, _) in enumerate(parts) if read <= set(rows)), None)
        for user, argument in ops.users(producer) if part is not None else ():
            if user not in passed:
                ops.network.add_edge(part, user, argument=argument)


def _present(ops: OpGraph, node: fx.Node, trace: _Propagated, name: str) -> str:
    """Return the operation of a node's value, going back over identities, which the operation graph no longer has."""
    while node is not trace.layer and node.name not in ops.network:
        node = next(part for part in node.all_input_nodes if part in trace.numbers)
    return name if node is trace.layer else node.name
