"""Signatures: what the source multiplies each of its own numbers by, which tells numbers that no system tells apart.

The gradient of a value by a weight, over the samples, is what the weight is multiplied by. A weight of the destination that
is multiplied by the same is the same weight, though its number cannot be solved for, as where several are multiplied by one
value: two biases that are added up, the biases of an ensemble's members. Where it stands for several, it is their sum.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.matching.solve.choosing.recent import Recent
from fxmap.matching.solve.known.numbers import NumberTable
from fxmap.matching.solve.known.source import Block, SourceValues, elements, isreal
from fxmap.matching.solve.runs.effort import Effort
from fxmap.matching.solve.runs.stacked import StackedInterpreter, Unstackable, Value, Values
from fxmap.matching.solve.unknown.systems import Unknown
from fxmap.matching.solve.unknown.unknowns import Layout

# Numbers of the source that are followed, times samples.
_LIMIT = 4_000_000
_SAMPLES = 16
_SAME = 1e-9
# How often the numbers of a gradient are gone over.
_PASSES = 6
# Numbers of gradients that are kept: a value of thousands of elements has one for each, as large as the network.
_KEPT = 20_000_000


class Signatures:
    """The gradients of the source's values by its own numbers."""

    def __init__(self, source: SourceValues) -> None:
        self.source, self.effort = source, Effort(float("inf"))
        self.table: NumberTable = source.numbers
        names = [name for name in self.table.names if name in source.tensors]
        self.size = sum(int(torch.Size(self.table.shapes[name]).numel()) for name in names)
        self.names = names
        read = [node for node in source.nodes if node.op == "get_attr"]
        self._order = {source.captured.canonical.get(str(node.target)): index for index, node in enumerate(read)}
        self._runs = Recent[fx.Node, tuple[tuple[Tensor, list[Tensor]] | None]](_KEPT)
        self._found: dict[int, tuple[Tensor, _Looks]] = {}
        self._looks: dict[int, tuple[object, _Looks]] = {}

    def solution(self, system: Unknown, element: int, paths: list[str], layout: Layout) -> Tensor | None:
        """Return the numbers of a system whose sum is one of the source's values; None where they are not the source's.

        `paths` are the weights that they belong to: of several that are multiplied by one value, sizes and names tell which
        is which, or the order in which they are read.
        """
        ours = self._gradient(element)
        if ours is None:
            return None
        columns = system.equations.columns
        solved = torch.zeros(columns.shape[1], dtype=torch.float64)
        self.effort.spend(numbers=columns.shape[1] + ours[0].shape[1])
        for entries, places in _groups(columns[:_SAMPLES], self._looks_at(system), ours[1]):
            given = self._given(entries, places, paths, layout)
            if given is None:
                return None
            for entry, place in zip(entries, given, strict=False):
                solved[entry] = self.table.numbers[place]
        wanted = self.source.columns[:, element] - system.rest
        error = (columns @ solved - wanted).abs().max()
        return solved if bool(error <= 1e-8 * wanted.abs().max()) else None

    def _given(self, entries: list[int], places: list[int], paths: list[str], layout: Layout) -> list[int] | None:
        """Return the number of the source for each of some entries that are multiplied by one value."""
        if len(entries) == 1 and len(places) > 1:
            total = self.table.sum_of(places)
            return None if total is None else [total]
        if len(entries) < len(places):
            return None
        left = sorted(places, key=lambda place: (self._order.get(self.table.owner(place), 0), place))
        rows = sorted(range(min(len(entries), len(places))), key=lambda row: layout.read[paths[entries[row]]])
        pairs = [
            (self._unlike(paths[entries[row]], place, layout), i, j, row)
            for i, row in enumerate(rows)
            for j, place in enumerate(left)
        ]
        given: dict[int, int] = {}
        for _, _, j, row in sorted(pairs):
            if row not in given and left[j] not in given.values():
                given[row] = left[j]
        return [given[row] for row in range(len(given))]

    def _unlike(self, path: str, place: int, layout: Layout) -> tuple[bool, bool]:
        """Whether a weight and a tensor of the source have other sizes, and other names."""
        name = self.table.owner(place)
        size = prod(layout.shapes[path]) != prod(self.table.shapes[name])
        return size, name.rpartition(".")[2] != path.rpartition(".")[2]

    def _looks_at(self, system: Unknown) -> "_Looks":
        key = id(system.equations)
        if key not in self._looks:
            self._looks[key] = system.equations, _Looks(system.equations.columns[:_SAMPLES])
        return self._looks[key][1]

    def _gradient(self, element: int) -> "tuple[Tensor, _Looks] | None":
        """Return the gradient of a value by all stored numbers, `samples numbers`, and what its columns are found by."""
        block = self.source.block(element)
        run = self._run_to(block)
        if run is None:
            return None
        if element not in self._found:
            goal, leaves = run
            goals = goal[:, element - block.begin].sum()
            self.effort.spend(runs=len(leaves), numbers=2 * goal.numel() + _PASSES * sum(leaf.numel() for leaf in leaves))
            found = torch.autograd.grad(goals, leaves, retain_graph=True, allow_unused=True)
            parts = [torch.zeros_like(leaf) if part is None else part for part, leaf in zip(found, leaves, strict=True)]
            gradient = torch.cat([part.reshape(len(part), -1) for part in parts], 1)
            while self._found and (len(self._found) + 1) * gradient.numel() > _KEPT:
                del self._found[next(iter(self._found))]
            self._found[element] = gradient, _Looks(gradient)
        return self._found[element]

    def _run_to(self, block: Block) -> tuple[Tensor, list[Tensor]] | None:
        """Return the run that ends in a value: one that was met, if it is still known."""
        known = self._runs.get(block.node)
        if known is None:
            try:
                known = (self._run(block),)
            except (RuntimeError, Unstackable):  # an operation that takes no weights for each sample
                known = (None,)
            # Beside the leaves, a run holds the values between, some for each sample.
            self._runs.put(block.node, known, 0 if known[0] is None else 2 * sum(leaf.numel() for leaf in known[0][1]))
        return known[0]

    def _run(self, block: Block) -> tuple[Tensor, list[Tensor]] | None:
        """Run the source with weights for each sample, so that one backward pass differentiates all of them."""
        source = self.source
        count = min(_SAMPLES, len(source.columns))
        if block.part or self.size * count > _LIMIT:
            return None
        leaves = {
            name: torch.stack([source.tensors[name].detach()] * count).contiguous().requires_grad_(True)
            for name in self.names
            if isreal(source.tensors[name])
        }
        if any(leaf.is_complex() for leaf in leaves.values()):
            return None
        interpreter = StackedInterpreter(source.captured)
        interpreter.effort = self.effort
        values: Values = {node: value.first(count) for node, value in source.values.items()}
        fresh: set[fx.Node] = set()
        with torch.enable_grad():
            for node in source.nodes[: source.nodes.index(block.node) + 1]:
                name = source.captured.canonical.get(str(node.target)) if node.op == "get_attr" else None
                if name in leaves:
                    values[node] = Value(leaves[name], stacked=True)
                    fresh.add(node)
                elif node.op != "output" and any(part in fresh for part in node.all_input_nodes):
                    values[node] = interpreter.node(node, values)
                    fresh.add(node)
        parts = elements(values[block.node])
        if len(parts) != 1 or not parts[0].requires_grad:
            return None
        return parts[0].reshape(len(parts[0]), -1), list(leaves.values())


class _Looks:
    """Two numbers for each column of a matrix, by which equal columns are found, sorted by the first one."""

    def __init__(self, columns: Tensor) -> None:
        looks = torch.linspace(1.0, 2.0, len(columns), dtype=torch.float64)
        self.both = (torch.stack([(looks * step).sin() for step in (1.0, 5.0)]) @ columns).numpy()
        self.order = self.both[0].argsort(kind="stable")
        self.sorted = self.both[:, self.order]

    def near(self, wanted: "_Looks", limits: Any) -> list[list[int]]:
        """Return, for each column of another matrix, the columns that are equal to it up to a limit, in order."""
        begins = self.sorted[0].searchsorted(wanted.both[0] - limits, side="left")
        stops = self.sorted[0].searchsorted(wanted.both[0] + limits, side="right")
        return [
            sorted(self.order[begin:stop][abs(self.sorted[1, begin:stop] - second) <= limit].tolist())
            for begin, stop, second, limit in zip(begins.tolist(), stops.tolist(), wanted.both[1], limits, strict=True)
        ]


def _groups(theirs: Tensor, one: _Looks, other: _Looks) -> list[tuple[list[int], list[int]]]:
    """Pair the columns of two matrices that are equal: for each different column of the first, where it is in both."""
    limits = (_SAME * theirs.norm(dim=0) * 10).numpy()
    left = set(range(theirs.shape[1]))
    found = []
    for entry, (same, places) in enumerate(zip(one.near(one, limits), other.near(one, limits), strict=True)):
        if entry in left:
            left -= set(same)
            found.append((same, places))
    return found
