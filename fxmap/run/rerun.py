"""Run a captured graph again with a few other tensors: only what they lead to, and only as far as it changes something.

A proof asks of hundreds of exchanges (two branches of a sum, two heads) whether they move the outputs. Where they do not,
the values are the same again a few operations behind the tensors that were exchanged.

>>> from torch import nn
>>> from fxmap.capture.symbolic import capture_symbolic
>>> graph = capture_symbolic(nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)))
>>> tensors = {"0.weight": torch.tensor([[3.0]]), "1.weight": torch.tensor([[1.0]])}
>>> rerun = Rerun.of(graph, tensors, [torch.tensor([[2.0]])])
>>> rerun({**tensors, "1.weight": torch.tensor([[5.0]])})
tensor([[30.]])

Cost: one whole run, whose values are held; then the operations behind the tensors that are others.
"""

import operator
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from fxmap.capture.captured import Captured
from fxmap.model.tensors import tensors_of
from fxmap.run.deferred import Deferred
from fxmap.run.interpreter import ValueInterpreter

# So many numbers of values are held: 240 MB in double precision.
_HELD = 30_000_000
# Two values are the same up to rounding: the sum of a few numbers in another order.
_ROUNDING = 1e-14


class _TooManyError(Exception):
    """The values of a run are too many to be held: what is left of it need not run."""


@dataclass(frozen=True)
class Rerun:
    """A run of a captured graph with some tensors, to be repeated in part with others."""

    captured: Captured
    tensors: Mapping[str, Tensor]
    values: Mapping[fx.Node, Any]

    @classmethod
    def of(cls, captured: Captured, tensors: Mapping[str, Tensor], arguments: Sequence[Any]) -> Self | None:
        """Run a graph and hold its values; None where they are too many, or where operations write into them."""
        if captured.mutations or any(map(_writes, captured.graph.nodes)) or any(map(_is_deferred, tensors.values())):
            return None
        values: dict[fx.Node, Any] = {}
        count = 0

        def hold(node: fx.Node, value: Any) -> Any:
            nonlocal count
            count += sum(tensor.numel() for tensor in tensors_of(value)) if node.op.startswith("call") else 0
            if count > _HELD:
                raise _TooManyError
            values[node] = value
            return value

        try:
            ValueInterpreter(captured, tensors, hold).run(*arguments)
        except _TooManyError:
            return None
        return cls(captured, tensors, values)

    def __call__(self, tensors: Mapping[str, Tensor]) -> Any:
        """Return what the graph returns with other tensors of the same shapes."""
        changed: dict[fx.Node, Any] = {}
        interpreter = ValueInterpreter(self.captured, tensors)
        interpreter.env = ChainMap(changed, self.values)  # type: ignore[assignment,arg-type]  # it is read alone
        for node in self.captured.graph.nodes:
            if node.op == "get_attr":
                path = str(node.target)
                if tensors.get(path) is not self.tensors.get(path):
                    changed[node] = interpreter.run_node(node)
            elif any(part in changed for part in node.all_input_nodes):
                value = interpreter.run_node(node)
                if node.op == "output" or not _is_same(value, self.values[node]):
                    changed[node] = value
        last = next(node for node in reversed(self.captured.graph.nodes) if node.op == "output")
        return changed.get(last, self.values[last])


def _is_deferred(tensor: Tensor) -> bool:
    return isinstance(tensor, Deferred)


def _writes(node: fx.Node) -> bool:
    """Whether an operation may write into a value that is held; functions of torch are called out of place."""
    if node.op == "call_function" and isinstance(node.target, OpOverload):
        return bool(node.target._schema.is_mutable)
    name = str(node.target)
    in_place = node.op == "call_method" and name.endswith("_") and not name.startswith("__")
    return in_place or node.target is operator.setitem or node.op == "call_module" or "out" in node.kwargs


def _is_same(value: Any, before: Any) -> bool:
    """Whether a value is the one before up to the rounding of a sum in another order."""
    ours, theirs = tensors_of(value), tensors_of(before)
    if not ours or len(ours) != len(theirs):
        return False
    return all(map(_are_close, ours, theirs))


def _are_close(one: Tensor, other: Tensor) -> bool:
    with torch._C.DisableTorchFunction():  # nothing but the models' own operations need be watched
        return _is_rounding(one, other)


def _is_rounding(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    return one.numel() == 0 or bool((one - other).abs().max() <= _ROUNDING * other.abs().max())
