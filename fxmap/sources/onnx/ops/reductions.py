"""ONNX operators that reduce axes, and softmax: https://onnx.ai/onnx/operators/."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxmap.sources.onnx.records.values import integers


def _reduction(function: Callable[[Tensor, Sequence[int], bool], Tensor]) -> Callable[..., Tensor]:
    def reduced(
        x: Tensor,
        given: Tensor | None = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        # The axes are an attribute before opset 13 or 18, and an input since.
        chosen = list(axes or ()) if given is None else integers(given)
        if not chosen and noop_with_empty_axes:
            return x
        return function(x, chosen or list(range(x.dim())), bool(keepdims))

    return reduced


def _product(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _softmax(x: Tensor, opset: int, *, axis: int | None = None) -> Tensor:
    if opset >= 13:
        return F.softmax(x, -1 if axis is None else axis)
    return _flattened(x, 1 if axis is None else axis, lambda rows: F.softmax(rows, 1))


def _log_softmax(x: Tensor, opset: int, *, axis: int | None = None) -> Tensor:
    if opset >= 13:
        return F.log_softmax(x, -1 if axis is None else axis)
    return _flattened(x, 1 if axis is None else axis, lambda rows: F.log_softmax(rows, 1))


def _flattened(x: Tensor, axis: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Before opset 13 all axes from the given one on are one; over the last one alone it is the same."""
    axis %= x.dim()
    if axis == x.dim() - 1:
        return function(x.reshape(-1, x.shape[-1])).reshape(x.shape) if x.dim() != 2 else function(x)
    return function(x.flatten(axis).reshape(-1, x[(0,) * axis].numel())).reshape(x.shape)


def _extreme(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def found(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        if not select_last_index:
            return function(x, axis, keepdim=bool(keepdims))
        last: Tensor = x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=bool(keepdims))
        return last

    return found


def _top(x: Tensor, k: Tensor, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    values, places = torch.topk(x, integers(k)[0], axis, bool(largest), bool(sorted))
    return values, places


def _cumulative(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    place = integers(axis)[0]
    value = x.flip(place) if reverse else x
    total = value.cumsum(place)
    total = total - value if exclusive else total
    return total.flip(place) if reverse else total


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ArgMax": _extreme(torch.argmax),
    "ArgMin": _extreme(torch.argmin),
    "CumSum": _cumulative,
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(list(axes), keepdim=keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, list(axes), keepdim=keep)),
    "ReduceLogSum": _reduction(lambda x, axes, keep: x.sum(list(axes), keepdim=keep).log()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: torch.logsumexp(x, list(axes), keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: torch.amax(x, list(axes), keepdim=keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(list(axes), keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: torch.amin(x, list(axes), keepdim=keep)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(list(axes), keepdim=keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: x.square().sum(list(axes), keepdim=keep)),
    "TopK": _top,
}

# Operators whose meaning depends on the opset, which is their last positional argument.
OF_OPSET: dict[str, Callable[..., Any]] = {"LogSoftmax": _log_softmax, "Softmax": _softmax}
