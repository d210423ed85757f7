"""Gauge: of several solutions of a system, the one with the source's own numbers.

Behind a norm, the channels of a value and the constant 1 depend on one another, so that a layer with a bias has many equal
forms. The source tells which one is meant: its own value is a function of the values that the weights are multiplied by, and
the gradient of that function is what it multiplies them by itself.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from fxmap.matching.solve.known.source import Block, SourceValues, elements
from fxmap.matching.solve.runs.effort import Effort
from fxmap.matching.solve.runs.stacked import StackedInterpreter, Value, Values
from fxmap.matching.solve.unknown.systems import Unknown


class Gauge:
    """Chooses among the solutions of systems whose columns depend on one another."""

    def __init__(self, source: SourceValues) -> None:
        self.source, self.effort = source, Effort(float("inf"))
        self._inputs: dict[int, tuple[object, list[int] | None]] = {}
        self._runs: dict[tuple[fx.Node, ...], tuple[Tensor, list[Tensor]]] = {}

    def solution(self, system: Unknown, element: int) -> Tensor | None:
        """Return the solution with which the source makes one of its values, if its columns are values of the source."""
        inputs = self._columns(system)
        if inputs is None:
            return None
        block = self.source.block(element)
        nodes = sorted({self.source.block(one).node for one in inputs if one >= 0}, key=self.source.nodes.index)
        gradient = self._gradient(block, element, nodes)
        if gradient is None:
            return None
        columns = system.equations.columns
        solved = torch.zeros(columns.shape[1], dtype=torch.float64)
        met = set[int]()
        for index, one in enumerate(inputs):
            if one >= 0 and one not in met:
                own = self.source.block(one)
                solved[index] = gradient[own.node][one - own.begin]
                met.add(one)
        wanted = self.source.columns[:, element] - system.rest
        if -1 in inputs:
            solved[inputs.index(-1)] = (wanted - columns @ solved).mean()
        error = (columns @ solved - wanted).abs().max()
        return solved if bool(error <= 1e-8 * wanted.abs().max()) else None

    def _columns(self, system: Unknown) -> list[int] | None:
        key = id(system.equations)
        if key not in self._inputs:
            self._inputs[key] = system.equations, self.source.find(system.equations.columns)
        return self._inputs[key][1]

    def _gradient(self, block: Block, element: int, nodes: Sequence[fx.Node]) -> dict[fx.Node, Tensor] | None:
        if not nodes or block.part or block.node in nodes:
            return None
        key = (block.node, *nodes)
        if key not in self._runs:
            self._runs[key] = self._run(block.node, nodes)
        goal, leaves = self._runs[key]
        if not goal.requires_grad:
            return None
        self.effort.spend(runs=len(leaves), numbers=2 * goal.numel() + sum(leaf.numel() for leaf in leaves))
        found = torch.autograd.grad(goal.flatten()[element - block.begin], leaves, retain_graph=True, allow_unused=True)
        pairs = zip(nodes, found, leaves, strict=True)
        return {node: (torch.zeros_like(leaf) if part is None else part).flatten() for node, part, leaf in pairs}

    def _run(self, goal: fx.Node, nodes: Sequence[fx.Node]) -> tuple[Tensor, list[Tensor]]:
        """Run the source from some nodes on, for the first sample, so that its result can be differentiated by them."""
        interpreter = StackedInterpreter(self.source.captured)
        interpreter.effort = self.effort
        values: Values = {node: value.first(1) for node, value in self.source.values.items()}
        leaves = [values[node].tensors()[0].detach().clone().requires_grad_(True) for node in nodes]
        behind = set(nodes)
        for node, leaf in zip(nodes, leaves, strict=True):
            data = values[node].data
            values[node] = Value((leaf, *data[1:]) if isinstance(data, tuple) else leaf, stacked=True)
        with torch.enable_grad():
            for node in self.source.nodes[: self.source.nodes.index(goal) + 1]:
                if node not in behind and any(part in behind for part in node.all_input_nodes):
                    behind.add(node)
                    values[node] = interpreter.node(node, values)
        return elements(values[goal])[0], leaves
