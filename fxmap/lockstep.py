"""Run captured graphs on values: the source first, then the destination beside it, operation by operation.

Where an aligned pair of operations disagrees, the destination goes on with the source's value, so that every pair is
compared on equal inputs and one difference does not hide what comes after it.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._ops import OpOverload

from fxmap.capture import Captured
from fxmap.graph import bind, kind_of
from fxmap.values import tensors_of

Hook = Callable[[fx.Node, Any], Any]


class ValueInterpreter(fx.Interpreter):
    """Interprets a captured graph with given tensors in the place of the model's own.

    Batch norm is written out, since torch does not differentiate it by its running statistics, and nothing is computed in
    place, since values are kept. `hook(node, value)` sees every value and returns the one to go on with.
    """

    def __init__(self, captured: Captured, tensors: Mapping[str, Tensor], hook: Hook | None = None) -> None:
        super().__init__(captured.module, graph=captured.graph)
        self.tensors = tensors
        self.constants = captured.constants
        self.dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float64)
        self.hook = hook

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and show its value to the hook."""
        norm = n.op == "call_function" and kind_of(n) == "batch_norm"
        value: Any = self._batch_norm(n) if norm else super().run_node(n)
        if norm and isinstance(n.target, OpOverload) and len(n.target._schema.returns) > 1:
            # aten returns the statistics of the batch beside it, which are empty in eval mode.
            value = (value, value.new_empty(0), value.new_empty(0))
        return value if self.hook is None else self.hook(n, value)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a function, out of place; what a model computes in float32 by itself is computed in the tensors' dtype."""
        if kwargs.get("inplace"):
            kwargs = kwargs | {"inplace": False}
        if kwargs.get("dtype") is torch.float32 and isinstance(target, OpOverload):
            kwargs = kwargs | {"dtype": self.dtype}
        elif kwargs.get("dtype") is torch.complex64 and isinstance(target, OpOverload):
            kwargs = kwargs | {"dtype": self.dtype.to_complex()}
        return super().call_function(_OUT_OF_PLACE.get(target, target), args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a method, out of place."""
        plain = target.rstrip("_") if isinstance(target, str) and not target.startswith("__") else target
        return super().call_method(plain if hasattr(args[0], plain) else target, args, kwargs)

    def fetch_attr(self, target: str) -> Any:
        """Return the tensor to use for a path; constants of the graph take the dtype of the given tensors."""
        if target in self.tensors:
            return self.tensors[target]
        value = self.constants[target] if target in self.constants else super().fetch_attr(target)
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(next((t.dtype for t in self.tensors.values() if t.is_floating_point()), value.dtype))
        return value

    def before_batch_norm(self, node: fx.Node, value: Tensor) -> None:
        """See what enters a batch norm before its statistics are read."""

    def _batch_norm(self, node: fx.Node) -> Tensor:
        arguments = bind(node)
        x: Tensor = self.env[arguments["input"]]
        self.before_batch_norm(node, x)

        def tensor(name: str) -> Tensor | None:
            part = arguments.get(name)
            if not isinstance(part, fx.Node):
                return None
            # Read anew: the statistics may just have been set.
            value: Tensor = self.fetch_attr(str(part.target)) if part.op == "get_attr" else self.env[part]
            return value.reshape(1, -1, *[1] * (x.dim() - 2))

        mean, var, weight, bias = (tensor(name) for name in ("running_mean", "running_var", "weight", "bias"))
        if mean is None or var is None:
            dims = [d for d in range(x.dim()) if d != 1]
            mean, var = x.mean(dims, keepdim=True), x.var(dims, unbiased=False, keepdim=True)
        scale = torch.rsqrt(var + arguments["eps"])
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        return torch.addcmul(shift, x, scale)


_OUT_OF_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    **{
        getattr(module, f"{name}_"): getattr(module, name)
        for module in (torch, F)
        for name in dir(module)
        if not name.startswith("_") and hasattr(module, f"{name}_") and callable(getattr(module, name))
    },
}


def distance(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, relative to the largest absolute value of `a`.

    Infinite where shapes differ, or where one value is not a number.

    >>> distance(torch.tensor([2.0, 4.0]), torch.tensor([2.0, 3.0]))
    0.25
    """
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0 or torch.equal(a, b):
        return 0.0
    # Masks and numbers of positions are compared as numbers.
    a, b = (value.detach() if value.is_floating_point() or value.is_complex() else value.double() for value in (a, b))
    a, b = _without_masked(a, b)
    scale = float(a.abs().max())
    error = float((a - b).abs().max())
    if math.isnan(scale) or math.isnan(error):
        return float("inf")
    return error / scale if scale > 0 else error


def _without_masked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Set scores that are masked out in both values to 0: one model masks by -inf, the other by the least number."""
    if a.is_complex() or b.is_complex() or not float(a.min()) < _MASKED or not float(b.min()) < _MASKED:
        return a, b
    masked = (a < _MASKED) & (b < _MASKED)
    return a.masked_fill(masked, 0.0), b.masked_fill(masked, 0.0)


# A score below this is no score: its softmax is exactly 0 beside any that is not masked.
_MASKED = -1e30


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
            if error > tolerance and (error_up_to := _loose_distance(ours, theirs)) <= tolerance:
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


def corresponding(expected: Sequence[Tensor], outputs: Sequence[Tensor], tolerance: float) -> list[tuple[int, int]]:
    """Return which output of one model is which of the other, in order: all of those that the one with fewer returns.

    A model may return more than the other (hidden states, a loss): each output goes to the first one that is equal, or else
    to the first one of the same shape. Where there is none, the two do not correspond, and nothing is returned.

    >>> a, b = torch.zeros(2), torch.ones(2)
    >>> corresponding([a, b], [b], 1e-9)
    [(1, 0)]
    """
    if len(expected) == len(outputs):
        return [(i, i) for i in range(len(outputs))]
    few, many = (expected, outputs) if len(expected) < len(outputs) else (outputs, expected)
    found: list[int] = []
    for value in few:
        rest = range(found[-1] + 1 if found else 0, len(many))
        equal = [i for i in rest if distance(value, many[i]) <= tolerance]
        alike = [i for i in rest if value.shape == many[i].shape]
        if not alike:
            return []
        found.append((equal or alike)[0])
    return [(i, j) if few is expected else (j, i) for i, j in enumerate(found)]


def _distance_at_one(a: Tensor, b: Tensor) -> float:
    """Return the least distance of one value to the other at one of its positions; infinite where shapes do not allow it."""
    few, many = sorted((a, b), key=Tensor.numel)
    for axis in range(1, many.dim()):
        rest = (*many.shape[:axis], *many.shape[axis + 1 :])
        if rest in (few.shape, (*few.shape[:axis], *few.shape[axis + 1 :])) and few.numel() == math.prod(rest):
            parts = many.movedim(axis, 0).flatten(1)
            errors = (parts - few.reshape(1, -1)).abs().amax(1)
            scale = float(few.abs().max()) or 1.0
            return float(errors.min()) / scale if bool(torch.isfinite(errors).all()) else float("inf")
    return float("inf")


def _loose_distance(a: Tensor, b: Tensor) -> float:
    """Return the distance of two values up to the order of their numbers, zeros that pad, and a constant factor.

    Of two values of which one has a position alone that the other has among others, it is the distance at that position: a
    norm may come before a token is selected, or behind.
    """
    if not a.is_floating_point() or not b.is_floating_point():
        return float("inf")
    if a.numel() != b.numel() and (at_one := _distance_at_one(a.detach(), b.detach())) < float("inf"):
        return at_one
    a, b = a.detach().flatten(), b.detach().flatten()
    if len(a) != len(b):
        a, b = a[a != 0], b[b != 0]
        return distance(a.sort().values, b.sort().values) if len(a) == len(b) > 0 else float("inf")
    unordered = distance(a.sort().values, b.sort().values)
    if a.numel() < 2 or not bool((a != 0).any()):
        return unordered
    factor = float(torch.dot(a, b) / torch.dot(a, a))
    return min(unordered, distance(a * factor, b)) if factor > 0 else unordered
