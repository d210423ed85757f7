"""Stacked runs: the values of a captured graph for many inputs at once, with the samples as the first axis.

Every operation is mapped over the samples by `torch.func.vmap`; one that cannot be is run sample by sample. A weight may
have a value of its own for each sample, so that one backward pass gives the gradient of every sample.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_map

from fxmap.capture.captured import Captured
from fxmap.matching.solve.effort import Effort
from fxmap.run.interpreter import ValueInterpreter


class Unstackable(Exception):
    """The values of one operation have other shapes for other inputs."""


class Value:
    """A value of a node: `data`, and whether it has a sample axis in front (of every tensor in it)."""

    __slots__ = ("data", "stacked")

    def __init__(self, data: Any, *, stacked: bool) -> None:
        self.data, self.stacked = data, stacked

    def tensors(self) -> list[Tensor]:
        """Return the tensors of the value that have elements."""
        return [part for part in tree_flatten(self.data)[0] if isinstance(part, Tensor) and part.numel()]

    def first(self, count: int) -> "Value":
        """Return the value for the first samples alone."""
        return (
            Value(tree_map(lambda t: t[:count] if isinstance(t, Tensor) else t, self.data), stacked=True)
            if self.stacked
            else self
        )

    def repeated(self, times: int) -> "Value":
        """Return the value for all samples, and again for all of them, so many times."""
        if not self.stacked:
            return self
        made = tree_map(lambda t: t.repeat(times, *[1] * (t.dim() - 1)) if isinstance(t, Tensor) else t, self.data)
        return Value(made, stacked=True)


Values = dict[fx.Node, Value]

_COPIES = {torch.ops.aten.view.default: torch.ops.aten.reshape.default}


class StackedInterpreter(ValueInterpreter):
    """Runs single nodes of a captured graph on stacked values."""

    def __init__(self, captured: Captured) -> None:
        super().__init__(captured, {})
        self.captured = captured
        self.dtype = torch.float64
        self._given: dict[str, Any] = {}
        self.effort = Effort(float("inf"))
        self.exact: set[fx.Node] = set()

    def fetch_attr(self, target: str) -> Any:
        """Return a weight of the current node, or a constant of the graph in double precision."""
        if target in self._given:
            return self._given[target]
        value = self.constants[target] if target in self.constants else fx.Interpreter.fetch_attr(self, target)
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.double()
        return value.to(torch.complex128) if isinstance(value, Tensor) and value.is_complex() else value

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operation; a view, which memory may not allow for many samples at once, is a reshape."""
        return super().call_function(_COPIES.get(target, target), args, kwargs)

    def node(self, node: fx.Node, values: Mapping[fx.Node, Value]) -> Value:
        """Run one node on the values of those that it reads.

        Raises:
            Unstackable: the result's shape depends on the sample.
        """
        if node.op == "get_attr":
            return Value(self.fetch_attr(str(node.target)), stacked=False)
        found = self._run_stacked(node, values)
        self.effort.spend(runs=1, numbers=sum(part.numel() for part in found.tensors()))
        return found

    def _run_stacked(self, node: fx.Node, values: Mapping[fx.Node, Value]) -> Value:
        inputs = node.all_input_nodes
        stacked = [part for part in inputs if values[part].stacked]
        plain = {part: values[part].data for part in inputs if not values[part].stacked}

        def run(*parts: Any) -> Any:
            self.env = {**plain, **dict(zip(stacked, parts, strict=True))}
            self._given = {str(part.target): value for part, value in self.env.items() if part.op == "get_attr"}
            try:
                return self.run_node(node)
            finally:
                self.env, self._given = {}, {}

        if not stacked:
            return Value(run(), stacked=False)
        data = [values[part].data for part in stacked]
        if node not in self.exact:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # an operation without a rule is run sample by sample, which is slower
                    return Value(torch.func.vmap(run, randomness="same")(*data), stacked=True)
            except Exception:  # vmap has no rule for it: sample by sample
                self.exact.add(node)
        count = len(tree_flatten(data[0])[0][0])
        self.effort.spend(runs=count)
        parts = [run(*(tree_map(lambda t, k=k: t[k], one) for one in data)) for k in range(count)]
        try:
            return Value(tree_map(lambda *ts: torch.stack(ts) if isinstance(ts[0], Tensor) else ts[0], *parts), stacked=True)
        except (RuntimeError, ValueError) as error:
            raise Unstackable(f"{node.name}: {error}") from error
