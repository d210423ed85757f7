"""ONNX operators that move, cut, join and index: https://onnx.ai/onnx/operators/."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxmap.sources.onnx.records.values import DTYPES, bounded, integers, plain


def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


def _reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    wanted = [x.shape[i] if extent == 0 and not allowzero else extent for i, extent in enumerate(integers(shape))]
    return x.reshape(wanted)


def _squeeze(x: Tensor, given: Tensor | None = None, *, axes: Sequence[int] | None = None) -> Tensor:
    chosen = axes if given is None else integers(given)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


def _unsqueeze(x: Tensor, given: Tensor | None = None, *, axes: Sequence[int] = ()) -> Tensor:
    chosen = list(axes) if given is None else integers(given)
    rank = x.dim() + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def _split(
    x: Tensor,
    given: Tensor | None = None,
    *,
    axis: int = 0,
    split: Sequence[int] | None = None,
    num_outputs: int | None = None,
    outputs: int = 1,
) -> tuple[Tensor, ...]:
    sizes = list(split) if split else None if given is None else integers(given)
    if sizes is None:
        # The last part is smaller where the others do not divide the axis.
        part = -(-x.shape[axis] // (num_outputs or outputs))
        return torch.split(x, part, axis)
    return torch.split(x, sizes, axis)


def _slice(
    x: Tensor,
    given_starts: Tensor | None = None,
    given_ends: Tensor | None = None,
    given_axes: Tensor | None = None,
    given_steps: Tensor | None = None,
    *,
    starts: Sequence[int] = (),
    ends: Sequence[int] = (),
    axes: Sequence[int] | None = None,
) -> Tensor:
    first = list(starts) if given_starts is None else integers(given_starts)
    last = list(ends) if given_ends is None else integers(given_ends)
    places = (axes if given_axes is None else integers(given_axes)) or range(len(first))
    steps = [1] * len(first) if given_steps is None else integers(given_steps)
    for place, start, end, step in zip(places, first, last, steps, strict=True):
        x = _cut(x, place, start, end, step)
    return x


def _cut(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    extent = x.shape[axis]
    begin, stop, by = slice(start, end, step).indices(extent)
    # Python's slice reads -1 as the last place; here an end far below means before the first one.
    if step < 0 and end < -extent:
        stop = -1
    if by > 0:
        index = [slice(None)] * (axis % x.dim()) + [slice(begin, max(begin, stop), by)]
        return x[tuple(index)]
    return x.index_select(axis, torch.tensor(list(range(begin, stop, by)), dtype=torch.int64))


def _gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    if axis == 0 and x.dim() == 2 and x.is_floating_point():
        try:
            return F.embedding(indices, x)
        except IndexError:
            pass  # a negative index counts from the end
    if indices.dim() == 0:
        place = int(plain(indices))
        return x.select(axis, place + x.shape[axis] if place < 0 else place)
    moved = _of_places(lambda places: x.index_select(axis, places.reshape(-1)), indices, x.shape[axis])
    axis %= x.dim()
    return moved.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return _of_places(lambda places: x.gather(axis, places), indices, x.shape[axis])


def _of_places(take: Callable[[Tensor], Tensor], indices: Tensor, extent: int) -> Tensor:
    """Take what stands at some places; where one is negative, which counts from the end, torch takes none."""
    try:
        return take(indices)
    except (IndexError, RuntimeError):
        return take(torch.where(indices < 0, indices + extent, indices))


def _gather_many(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    if batch_dims:
        shape = x.shape[:batch_dims]
        rows = x.reshape(-1, *x.shape[batch_dims:]), indices.reshape(-1, *indices.shape[batch_dims:])
        found = torch.stack([_gather_many(one, places) for one, places in zip(*rows, strict=True)])
        return found.reshape(*shape, *found.shape[1:])
    return x[tuple(indices.unbind(-1))]


def _scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    places = torch.where(indices < 0, indices + x.shape[axis], indices)
    if reduction == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCE[reduction])


def _scatter_many(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    if reduction not in ("none", "add"):
        raise NotImplementedError(f"ScatterND with the reduction {reduction}")
    return x.index_put(tuple(indices.unbind(-1)), updates, accumulate=reduction == "add")


_REDUCE = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}


def _pad(
    x: Tensor,
    given: Tensor | None = None,
    fill: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    mode: str = "constant",
    pads: Sequence[int] = (),
    value: float = 0.0,
) -> Tensor:
    amounts = list(pads) if given is None else integers(given)
    places = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in integers(axes)]
    before = dict(zip(places, amounts[: len(places)], strict=True))
    after = dict(zip(places, amounts[len(places) :], strict=True))
    bounded(math.prod(max(n + before.get(axis, 0) + after.get(axis, 0), 0) for axis, n in enumerate(x.shape)))
    # torch lists the last axis first, and only axes up to the first that is padded.
    padded = [axis for axis in places if before[axis] or after[axis]]
    if not padded:
        return x
    flat = [amount for axis in reversed(range(min(padded), x.dim())) for amount in (before.get(axis, 0), after.get(axis, 0))]
    if mode == "constant":
        return F.pad(x, flat, value=value if fill is None else plain(fill).item())
    return F.pad(x, flat, mode={"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode])


def _cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    if to not in DTYPES:
        raise NotImplementedError(f"Cast to the element type {to}")
    # A file of float32 that is run in float64 stays there.
    return x if DTYPES[to] is x.dtype or (to == 1 and x.dtype is torch.float64) else x.to(DTYPES[to])


def _one_hot(indices: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    count = integers(depth)[0]
    bounded(indices.numel() * count)
    places = torch.where(indices < 0, indices + count, indices).to(torch.int64)
    hot = F.one_hot(places, count).bool()
    found = torch.where(hot, values[1], values[0])
    return found.movedim(-1, axis)


def _depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    b, c, h, w = x.shape
    x = x.reshape(b, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(b, c // blocksize**2, h * blocksize, w * blocksize)


def _space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(b, c * blocksize**2, h // blocksize, w // blocksize)


def _filled(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    one = torch.zeros(1) if value is None else value
    bounded(math.prod(integers(shape)))
    return torch.full(integers(shape), plain(one).item(), dtype=one.dtype)


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = (plain(one).item() for one in (start, limit, delta))
    bounded((last - first) / step if step else 0)
    return torch.arange(first, last, step, dtype=start.dtype)


def _tile(x: Tensor, repeats: Tensor) -> Tensor:
    bounded(x.numel() * math.prod(integers(repeats)))
    return x.repeat(integers(repeats))


def _triangle(x: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    diagonal = 0 if k is None else integers(k)[0]
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


def _transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(list(perm) if perm else list(reversed(range(x.dim()))))


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    place = axis % x.dim() if axis < 0 else axis
    rows = 1
    for extent in x.shape[:place]:
        rows *= extent
    return x.reshape(rows, -1)


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    wanted = integers(shape)
    rank = max(x.dim(), len(wanted))
    ours, theirs = [1] * (rank - x.dim()) + list(x.shape), [1] * (rank - len(wanted)) + wanted
    extents = [max(one, other) for one, other in zip(ours, theirs, strict=True)]
    bounded(math.prod(extents))
    return x.expand(extents)


SHAPES: dict[str, Callable[..., Any]] = {
    "Cast": _cast,
    "CastLike": lambda x, like, **_: x.to(like.dtype),
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "ConstantOfShape": _filled,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "EyeLike": lambda x, *, k=0, dtype=None: torch.diag_embed(torch.ones(min(x.shape)), k).to(DTYPES.get(dtype, x.dtype)),
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_many,
    "NonZero": lambda x: torch.nonzero(x).T,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_many,
    "Shape": _shape,
    "Size": lambda x: torch.tensor(x.numel()),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}

# Needs the number of its outputs, which is its last positional argument.
OF_OUTPUTS: dict[str, Callable[..., Any]] = {"Split": _split}
