"""Stacked runs: the values of a captured graph for many inputs at once, with the samples as the first axis.

Every operation is mapped over the samples by `torch.func.vmap`, but for those that take all at once as they take one; one
that cannot be is run sample by sample. A weight may have a value of its own for each sample, so that one backward pass gives
the gradient of every sample.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils._pytree import tree_flatten, tree_map

from fxmap.capture.captured import Captured
from fxmap.matching.solve.runs.effort import Effort
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


class Samples(Mapping[fx.Node, Value]):
    """Values for the first samples alone, which are taken so many times; each is cut when it is first asked for."""

    def __init__(self, values: Mapping[fx.Node, Value], count: int, times: int = 1) -> None:
        self._values, self._count, self._times = values, count, times
        self._cut: Values = {}

    def __getitem__(self, node: fx.Node) -> Value:
        if node not in self._cut:
            value = self._values[node].first(self._count)
            self._cut[node] = value if self._times == 1 else value.repeated(self._times)
        return self._cut[node]

    def __iter__(self) -> Iterator[fx.Node]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, node: object) -> bool:
        return node in self._values


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
        # Operations of which torch does not warn.
        self._calm: set[fx.Node] = set()

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
        if is_pointwise(node) and _fit(data, list(plain.values())):
            with suppress(RuntimeError):  # what reads the shape of a value without samples takes no more than one
                found = run(*data)
                if isinstance(found, Tensor) and found.shape[:1] == data[0].shape[:1]:
                    return Value(found, stacked=True)
        if node not in self.exact:
            try:
                return Value(self._mapped(node, run, data), stacked=True)
            except Exception:  # vmap has no rule for it: sample by sample
                self.exact.add(node)
        count = len(tree_flatten(data[0])[0][0])
        self.effort.spend(runs=count)
        parts = [run(*(tree_map(lambda t, k=k: t[k], one) for one in data)) for k in range(count)]
        try:
            return Value(tree_map(lambda *ts: torch.stack(ts) if isinstance(ts[0], Tensor) else ts[0], *parts), stacked=True)
        except (RuntimeError, ValueError) as error:
            raise Unstackable(f"{node.name}: {error}") from error

    def _mapped(self, node: fx.Node, run: Callable[..., Any], data: list[Any]) -> Any:
        """Map a run over the samples; torch warns of an operation without a rule, which it runs sample by sample."""
        mapped = torch.func.vmap(run, randomness="same")
        if node in self._calm:
            return mapped(*data)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            found = mapped(*data)
        if not seen:
            self._calm.add(node)
        return found


def is_pointwise(node: fx.Node) -> bool:
    """Whether torch says of an operation that each element of its result is made of one element of every operand."""
    tags = node.target.tags if isinstance(node.target, OpOverload) else ()
    return torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags


def _fit(stacked: list[Any], plain: list[Any]) -> bool:
    """Whether values with and without a sample axis are broadcast together as they are without it."""
    dims = {value.dim() if isinstance(value, Tensor) else 0 for value in stacked}
    most = max(dims)
    return len(dims) == 1 and most > 1 and all(isinstance(value, Tensor) and value.dim() < most for value in plain)
