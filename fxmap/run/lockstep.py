"""Lockstep: compare two models operation by operation, on equal inputs.

Idea: the source has run, and the value of every aligned operation was kept (a `Reference`). The destination then runs, and
each of its values is compared with its counterpart's. Where the two differ, the destination continues with the source's
value: so every pair is compared on equal inputs, and one difference does not hide the differences behind it.

>>> from torch import nn
>>> from fxmap.capture.symbolic import capture_symbolic
>>> model = capture_symbolic(nn.Sequential(nn.ReLU(), nn.Tanh()))
>>> relu, tanh = [node.name for node in model.graph.nodes if node.op == "call_function"]
>>> three, watches = torch.tensor([3.0]), [Watch(("a", relu), "a", relu), Watch(("b", tanh), "b", tanh)]
>>> source = Reference({"a": three, "b": three.tanh()}, [("", three.tanh())])
>>> print(compare(model, {}, [torch.tensor([2.0])], watches, source, 1e-9))
2 pairs compared, 0 loosely, 1 replaced by the source's value; outputs differ by 0.0e+00
  relu against a: 3.3e-01

Cost: one forward pass of the destination, and a comparison of every aligned value; memory for the source's values and, where
gradients are recorded, the destination's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.capture.captured import Captured
from fxmap.model.tensors import Named, named_outputs, plain
from fxmap.run.distance import corresponding, distance, loose_distance, output_error
from fxmap.run.interpreter import ValueInterpreter
from fxmap.run.operands import Operands, PieceWatch

# Two aligned operations, by name: the source's and the destination's.
Names = tuple[str, str]


def channels(value: Tensor, rows: tuple[int, ...] | None, axis: int) -> Tensor:
    """Select the channels `rows` of a value along an axis; return the value unchanged if it has no such channels."""
    if rows is None or value.shape[axis] <= max(rows):
        return value
    return value.index_select(axis, torch.tensor(rows))


@dataclass(frozen=True, slots=True)
class Watch:
    """An aligned pair, and the location of its values: two fx nodes, and the channels of each that belong to the pair.

    `axes` are the channel axes of the two values, which matter only where there are `rows`. `alike` says that both
    operations are of one kind: row numbers that were found in another way are in another order.
    """

    pair: Names
    src: str
    dst: str
    rows: tuple[tuple[int, ...] | None, tuple[int, ...] | None] = (None, None)
    axes: tuple[int, int] = (-1, -1)
    alike: bool = True

    def values(self, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
        """Return the channels to compare of the values of both nodes."""
        return channels(plain(src), self.rows[0], self.axes[0]), channels(plain(dst), self.rows[1], self.axes[1])

    def restarted(self, value: Tensor, ours: Tensor, theirs: Tensor) -> Tensor | None:
        """Return the destination's value with its elements replaced by the source's, or None if the layouts differ.

        Gradients still flow through the destination's own value.
        """
        if not theirs.is_floating_point():
            return ours if ours.shape == theirs.shape and self.rows == (None, None) and self.alike else None
        own = theirs - theirs.detach() if bool(torch.isfinite(theirs).all()) else torch.zeros_like(theirs)
        if ours.shape != theirs.shape:
            if ours.dim() != theirs.dim() or self.rows != (None, None):
                return None
            return ours.detach() + own.mean()
        fresh = ours.detach() + own
        return fresh if self.rows[1] is None else value.index_copy(self.axes[1], torch.tensor(self.rows[1]), fresh)


@dataclass(frozen=True)
class Reference:
    """One run of the source, with which the destination is compared: values by fx node, and the outputs with their names."""

    values: Mapping[str, Tensor]
    returned: Named

    @property
    def outputs(self) -> list[Tensor]:
        """The outputs, in order."""
        return [value for _, value in self.returned]


@dataclass(frozen=True)
class Comparison:
    """The result of comparing one run of the destination with a run of the source.

    `errors` holds the relative error of every aligned pair whose value was seen on both sides. `loose` are the pairs whose
    values have different layouts, so that only their sorted elements were compared, or are a constant multiple of one
    another (a model may scale early or late). `replaced` are the pairs where the destination continued with the source's
    value. `returned` pairs the outputs of the source with those of the destination, and `output_error` is their largest
    distance. `outputs` and `seen` are the destination's own values: its outputs, and the values of the pairs. `operands`
    are the pairs of pieces that read different values, each with the argument for which they do.

    >>> print(Comparison({("a", "b"): 0.0, ("c", "d"): 0.5}, frozenset(), (("c", "d"),), 0.0, [], [], []))
    2 pairs compared, 0 loosely, 1 replaced by the source's value; outputs differ by 0.0e+00
      d against c: 5.0e-01
    """

    errors: Mapping[Names, float]
    loose: frozenset[Names]
    replaced: tuple[Names, ...]
    output_error: float
    outputs: list[Tensor]
    seen: list[Tensor]
    returned: list[tuple[int, int]]
    operands: Mapping[Names, str] = field(default_factory=dict)

    def __str__(self) -> str:
        head = (
            f"{len(self.errors)} pairs compared, {len(self.loose)} loosely, {len(self.replaced)} replaced by the source's "
            f"value; outputs differ by {self.output_error:.1e}"
        )
        return "\n".join([head, *(f"  {pair[1]} against {pair[0]}: {self.errors[pair]:.1e}" for pair in self.replaced)])


@dataclass
class _Recorder:
    """A hook that compares every value of the destination's run, and returns the value to continue with."""

    watched: Mapping[str, Sequence[Watch]]
    reference: Reference
    tolerance: float
    restart: bool
    operands: Operands
    errors: dict[Names, float] = field(default_factory=dict)
    loose: set[Names] = field(default_factory=set)
    replaced: list[Names] = field(default_factory=list)
    seen: list[Tensor] = field(default_factory=list)

    def hook(self, node: fx.Node, value: Any) -> Any:
        if not isinstance(value, Tensor):
            if isinstance(value, int | float):
                self.operands.see_operand(node.name, value)
            return value
        self.operands.see_result(node.name, plain(value))
        for watch in self.watched.get(node.name, ()):
            if watch.src in self.reference.values:
                value = self._compared(watch, value)
        self.operands.see_operand(node.name, plain(value))
        return value

    def _compared(self, watch: Watch, value: Tensor) -> Tensor:
        source = self.reference.values[watch.src]
        ours, theirs = watch.values(source, value)
        self.seen.append(theirs)
        error = distance(ours, theirs)
        if error > self.tolerance and (error_up_to := loose_distance(ours, theirs)) <= self.tolerance:
            self.loose.add(watch.pair)
            error = error_up_to
        self.errors[watch.pair] = error
        if error <= self.tolerance or plain(value) is not value:
            return value
        self.replaced.append(watch.pair)
        fresh = watch.restarted(value, ours, theirs) if self.restart or source.shape == value.shape else None
        return value if fresh is None else fresh


def compare(
    captured: Captured,
    tensors: Mapping[str, Tensor],
    arguments: Sequence[Any],
    watches: Sequence[Watch],
    reference: Reference,
    tolerance: float,
    *,
    restart: bool = True,
    pieces: Sequence[PieceWatch] = (),
) -> Comparison:
    """Run the destination, and compare its values with those of a run of the source.

    Args:
        captured, tensors, arguments: the destination, its weights, and its inputs.
        watches: the aligned pairs.
        reference: the run of the source.
        tolerance: the largest relative error of two equal values.
        restart: whether the destination continues with the source's value also where its own has another shape.
        pieces: the pairs whose operands are compared too.
    """
    watched: dict[str, list[Watch]] = {}
    for watch in watches:
        watched.setdefault(watch.dst, []).append(watch)
    run = _Recorder(watched, reference, tolerance, restart, Operands(pieces, reference.values, tolerance))
    found = named_outputs(ValueInterpreter(captured, tensors, run.hook).run(*arguments))
    outputs = [value for _, value in found]
    returned = corresponding(reference.returned, found, tolerance)
    error = output_error(reference.outputs, outputs, returned)
    loose, replaced, operands = frozenset(run.loose), tuple(run.replaced), run.operands.differing
    return Comparison(run.errors, loose, replaced, error, outputs, run.seen, returned, operands)
