"""Filling a destination: the request, the result, and the steps that all forms share (run batches, call torch)."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from fxmap.errors import QuantizationError
from fxmap.expressions.base import Expression
from fxmap.expressions.values import spoiled
from fxmap.forms.saturation import Saturations
from fxmap.model.inputs import copied
from fxmap.model.memory import own_memory
from fxmap.model.replica import replicate
from fxmap.model.restoring import let_through

Result = TypeVar("Result")


# Scale and zero point of every node of a graph that has its own.
Literals = dict[fx.Node, tuple[float, int]]


@dataclass(frozen=True)
class FillRequest:
    """A destination to fill, with the mapped expressions, the source's state dict and calibration data.

    Attributes:
        dst: the destination; it is not changed.
        expressions: how its keys are made, as in a mapping.
        state: the source's state dict.
        batches: calibration data, inputs of the model: tensors, tuples of arguments (more than forward takes are dropped, as
            labels that a data loader adds), or dicts of keyword arguments. None where ranges come from elsewhere.
        qconfig: observers; by default the model's own, or those of the usual recipe with weights as in the model.
        kept: keys of weights that the destination keeps.
        saturating: relus that saturate, by the ranges behind them.
        ranges: scales and zero points that an int8 source gives, by the node of the destination's graph.
    """

    dst: nn.Module
    expressions: Mapping[str, Expression]
    state: Mapping[str, Any]
    batches: Iterable[Any] | None = None
    qconfig: Any = None
    kept: frozenset[str] = frozenset()
    saturating: Saturations = field(default_factory=dict)
    ranges: Mapping[str, tuple[Expression, Expression]] = field(default_factory=dict)


@dataclass(frozen=True)
class Filled:
    """A destination's full state: its state dict, and the literals of its graph."""

    state: dict[str, Any]
    literals: Literals = field(default_factory=dict)

    def write_literals(self, dst: nn.Module) -> None:
        """Write the literals into the nodes of a graph, and recompile its module if `dst` is one."""
        for node, (scale, zero_point) in self.literals.items():
            node.args = (node.args[0], scale, zero_point, *node.args[3:])
        if self.literals and isinstance(dst, fx.GraphModule):
            dst.recompile()

    def copy_of(self, dst: nn.Module) -> nn.Module:
        """Return a filled replica of a destination, which itself is not changed."""
        replica = replicate(dst, own=True)
        state: OrderedDict[str, Any] = OrderedDict(self.state)
        # Packed layers tell by the version which keys they have.
        vars(state)["_metadata"] = getattr(replica.state_dict(), "_metadata", None)
        nn.Module.load_state_dict(replica, state, strict=True)
        if not self.literals or not isinstance(dst, fx.GraphModule):
            return replica
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        graph.output(graph.graph_copy(dst.graph, copies))
        Filled({}, {copies[node]: found for node, found in self.literals.items()}).write_literals(nn.Module())
        return fx.GraphModule(replica, graph)


def run(module: nn.Module, batches: Iterable[Any] | None) -> int:
    """Run a replica over batches without gradients; return how many there were. It may write to neither.

    Raises:
        QuantizationError: there were none, one is empty or not finite, or the model refused one.
    """
    count = 0
    own_memory(module)
    with torch.no_grad():
        for batch in batches or ():
            args, kwargs = copied(arguments(module, batch))
            _refuse_telling_nothing(count, (*args, *kwargs.values()))
            try:
                module(*args, **kwargs)
            except Exception as error:  # whatever a model raises; guards of an exported graph assert
                let_through(error)
                raise QuantizationError(f"calibration batch {count}: the model refuses it: {error}") from error
            count += 1
    if not count:
        raise QuantizationError("calibration has no batches; give an iterable of inputs of the destination")
    return count


def _refuse_telling_nothing(number: int, inputs: Iterable[Any]) -> None:
    """Refuse a batch whose ranges would be nonsense: observers take them as they are, and their scales are written.

    Raises:
        QuantizationError: a tensor of it has no elements, or values that are NaN or infinite.
    """
    for value in inputs:
        if isinstance(value, Tensor) and not value.numel():
            raise QuantizationError(
                f"calibration batch {number}: it is empty, of shape {list(value.shape)}: no range is in it"
            )
        if count := spoiled(value):
            raise QuantizationError(
                f"calibration batch {number}: {count} of {value.numel()} values are NaN or infinite, and so would be the "
                "scales. Nothing was written; leave these inputs out"
            )


def arguments(module: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn a batch into arguments of forward."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if not isinstance(batch, list | tuple):
        return (batch,), {}
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return tuple(batch), {}
    return tuple(batch[: len(parameters)]), {}


def attempt(step: Callable[[], Result], name: str) -> Result:
    """Run a step of torch.ao or torchao, and turn its errors into QuantizationError.

    Raises:
        QuantizationError: torch refuses.
    """
    try:
        return step()
    except (RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError) as error:
        raise QuantizationError(
            f"torch's {name} refuses the destination's layers with this qconfig: {error}. Nothing was written; "
            "give a qconfig that every layer takes, such as one with per-tensor weights (default_weight_observer)"
        ) from error
