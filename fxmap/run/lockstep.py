"""Run captured graphs on values: the source first, then the destination beside it, operation by operation.

Where an aligned pair of operations disagrees, the destination goes on with the source's value, so that every pair is
compared on equal inputs and one difference does not hide what comes after it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.capture.captured import Captured
from fxmap.model.tensors import tensors_of
from fxmap.run.distance import corresponding, distance, loose_distance
from fxmap.run.interpreter import ValueInterpreter


def channels(value: Tensor, rows: tuple[int, ...] | None, axis: int) -> Tensor:
    """Return some channels of a value, or all of one that does not have these rows."""
    if rows is None or value.shape[axis] <= max(rows):
        return value
    return value.index_select(axis, torch.tensor(rows))


@dataclass(frozen=True, slots=True)
class Watch:
    """An aligned pair, and where its values are: two fx nodes, and the channels of each that are the pair's operation.

    `axes` are the channel axes of the two values, which matter where there are `rows`. `alike` says that both are of one
    kind: numbers of rows that were found in another way are in another order.
    """

    pair: tuple[str, str]
    src: str
    dst: str
    rows: tuple[tuple[int, ...] | None, tuple[int, ...] | None] = (None, None)
    axes: tuple[int, int] = (-1, -1)
    alike: bool = True

    def values(self, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is to be compared of the two nodes' values."""
        return channels(src, self.rows[0], self.axes[0]), channels(dst, self.rows[1], self.axes[1])

    def restarted(self, value: Tensor, ours: Tensor, theirs: Tensor) -> Tensor | None:
        """Return the destination's value with the source's numbers, or None where the two do not lie alike.

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
class Comparison:
    """What one run of the pair of models showed.

    `errors` holds the relative error of every aligned pair whose value was seen on both sides; `loose` are the pairs whose
    values lie in another layout, so that only the collection of numbers was compared, or are a constant multiple of one
    another (a model may scale early or late); `replaced` those where the destination went on with the source's value.
    `seen` are the destination's own values of the pairs, `returned` which output of the source is which of the destination.
    """

    errors: dict[tuple[str, str], float]
    loose: frozenset[tuple[str, str]]
    replaced: tuple[tuple[str, str], ...]
    output_error: float
    outputs: list[Tensor]
    seen: list[Tensor]
    returned: list[tuple[int, int]]


def compare(
    captured: Captured,
    tensors: Mapping[str, Tensor],
    arguments: Sequence[Any],
    watches: Sequence[Watch],
    values: Mapping[str, Tensor],
    expected: Sequence[Tensor],
    tolerance: float,
    *,
    restart: bool = True,
) -> Comparison:
    """Run the destination beside recorded source values.

    With `restart`, the destination goes on with the source's value also where its own has another shape.
    """
    errors: dict[tuple[str, str], float] = {}
    loose: set[tuple[str, str]] = set()
    replaced: list[tuple[str, str]] = []
    seen: list[Tensor] = []
    watched: dict[str, list[Watch]] = {}
    for watch in watches:
        watched.setdefault(watch.dst, []).append(watch)

    def hook(node: fx.Node, value: Any) -> Any:
        for watch in watched.get(node.name, ()) if isinstance(value, Tensor) else ():
            if watch.src not in values:
                continue
            ours, theirs = watch.values(values[watch.src], value)
            seen.append(theirs)
            error = distance(ours, theirs)
            if error > tolerance and (error_up_to := loose_distance(ours, theirs)) <= tolerance:
                loose.add(watch.pair)
                error = error_up_to
            errors[watch.pair] = error
            if error > tolerance:
                replaced.append(watch.pair)
                same = values[watch.src].shape == value.shape
                fresh = watch.restarted(value, ours, theirs) if restart or same else None
                value = value if fresh is None else fresh
        return value

    outputs = tensors_of(ValueInterpreter(captured, tensors, hook).run(*arguments))
    returned = corresponding(expected, outputs, tolerance)
    error = max((distance(expected[i], outputs[j]) for i, j in returned), default=float("inf"))
    return Comparison(errors, frozenset(loose), tuple(replaced), error, outputs, seen, returned)
