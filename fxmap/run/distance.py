"""Distances between two values, exact or up to layout and scale, and the correspondence between outputs of two models.

Every distance is relative to the largest absolute value of the first of the two, so that one tolerance serves small
and large values. A distance of 0 means equal, and infinity means that the two cannot be compared.

Cost: a few passes over the values; `loose_distance` sorts them.
"""

import math
from collections.abc import Container, Sequence

import numpy as np
import torch
from torch import Tensor

from fxmap.model.tensors import Named, plain


def distance(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference, relative to the largest absolute value of `a`.

    Infinite if the shapes differ, or if an element is NaN.

    >>> distance(torch.tensor([2.0, 4.0]), torch.tensor([2.0, 3.0]))
    0.25
    """
    if a.shape != b.shape:
        return float("inf")
    a, b = plain(a), plain(b)
    if a.numel() == 0 or torch.equal(a, b):
        return 0.0
    # Masks and integers, such as positions, are compared as floating-point numbers.
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


# A score below this is masked out: its softmax is exactly 0 beside any that is not.
_MASKED = -1e30


def is_telling(outputs: Sequence[Tensor]) -> bool:
    """Whether outputs can tell two models apart: all are finite, and not all are zero.

    >>> is_telling([torch.tensor([0.0, 2.0])]), is_telling([torch.zeros(2)]), is_telling([torch.tensor([float("nan")])])
    (True, False, False)
    """
    finite = all(bool(torch.isfinite(value).all()) for value in outputs)
    return finite and any(bool((value != 0).any()) for value in outputs)


def corresponding(expected: Named, outputs: Named, tolerance: float) -> list[tuple[int, int]]:
    """Return pairs of indices of corresponding outputs, in order: one for every output of the model that returns fewer.

    Outputs of one name correspond, where both models name all of theirs. The others are paired in order; where a model
    returns more of them than the other (hidden states, a loss), each output of the other is paired with the first remaining
    one that is equal, or else with the first of the same shape. If there is none, none of them has a counterpart.

    >>> a, b = torch.zeros(2), torch.ones(2)
    >>> corresponding([("", a), ("", b)], [("", b)], 1e-9)
    [(1, 0)]
    >>> corresponding([("mean", a), ("scale", b)], [("scale", b), ("mean", a)], 1e-9)
    [(0, 1), (1, 0)]
    """
    named = pairs_by_name([name for name, _ in expected], [name for name, _ in outputs])
    ours, theirs = _others(len(expected), [i for i, _ in named]), _others(len(outputs), [j for _, j in named])
    values = [expected[i][1] for i in ours], [outputs[j][1] for j in theirs]
    if len(ours) == len(theirs):
        found = [(i, i) for i in range(len(ours))]
    elif len(ours) < len(theirs):
        found = _first_alike(*values, tolerance)
    else:
        found = [(i, j) for j, i in _first_alike(values[1], values[0], tolerance)]
    return sorted([*named, *((ours[i], theirs[j]) for i, j in found)])


def _others(count: int, taken: Container[int]) -> list[int]:
    return [i for i in range(count) if i not in taken]


def _first_alike(few: Sequence[Tensor], many: Sequence[Tensor], tolerance: float) -> list[tuple[int, int]]:
    """Pair each value, in order, with the first remaining one that is equal, or of the same shape; none if one has none."""
    found: list[int] = []
    for value in few:
        rest = range(found[-1] + 1 if found else 0, len(many))
        equal = [i for i in rest if distance(value, many[i]) <= tolerance]
        alike = [i for i in rest if value.shape == many[i].shape]
        if not alike:
            return []
        found.append((equal or alike)[0])
    return list(enumerate(found))


def pairs_by_name(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """Return pairs of places of equal names; none where one side leaves one without a name.

    >>> pairs_by_name(["logits", "loss"], ["hidden", "logits"]), pairs_by_name(["logits"], [""])
    ([(0, 1)], [])
    """
    if not all((*ours, *theirs)):
        return []
    places = {name: place for place, name in enumerate(theirs)}
    return [(place, places[name]) for place, name in enumerate(ours) if name in places]


def output_error(expected: Sequence[Tensor], outputs: Sequence[Tensor], returned: Sequence[tuple[int, int]]) -> float:
    """Return the largest distance of corresponding outputs; infinite where none corresponds."""
    return max((distance(expected[i], outputs[j]) for i, j in returned), default=float("inf"))


def _distance_at_one(a: Tensor, b: Tensor) -> float:
    """Return the least distance of the smaller value to a slice of the larger one, over all slices along one axis.

    Infinite if no axis gives slices of the smaller value's shape.
    """
    few, many = sorted((a, b), key=Tensor.numel)
    for axis in range(1, many.dim()):
        rest = (*many.shape[:axis], *many.shape[axis + 1 :])
        if rest in (few.shape, (*few.shape[:axis], *few.shape[axis + 1 :])) and few.numel() == math.prod(rest):
            parts = many.movedim(axis, 0).flatten(1)
            errors = (parts - few.reshape(1, -1)).abs().amax(1)
            scale = float(few.abs().max()) or 1.0
            return float(errors.min()) / scale if bool(torch.isfinite(errors).all()) else float("inf")
    return float("inf")


def _distance_repeated(a: Tensor, b: Tensor) -> float:
    """Return the distance of two values one of which repeats the other along axes; infinite where none may."""
    few, many = sorted((a, b), key=Tensor.numel)
    if few.dim() != many.dim() or not all(one in (1, other) for one, other in zip(few.shape, many.shape, strict=True)):
        return float("inf")
    return distance(few.expand_as(many), many)


def unordered_distance(a: Tensor, b: Tensor) -> float:
    """Return the distance of two lists of real numbers up to their order.

    >>> unordered_distance(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]))
    0.0
    """
    return distance(_sorted(a), _sorted(b))


def _sorted(values: Tensor) -> Tensor:
    if values.dtype not in (torch.float64, torch.float32, torch.int64) or values.device.type != "cpu":
        return values.sort().values
    return torch.from_numpy(np.sort(values.detach().resolve_neg().numpy()))  # in half of torch's time


def loose_distance(a: Tensor, b: Tensor) -> float:
    """Return the distance of two values up to the order of their elements, padding with zeros, and a constant factor.

    If one value repeats the other along axes, it is that of one repetition. If one has only one of the other's positions, it
    is the distance at that position: a norm may come before or after the selection of a token.

    >>> x = torch.tensor([1.0, 2.0, 5.0])
    >>> loose_distance(x, x.flip(0)), loose_distance(x, 4 * x), loose_distance(x, torch.tensor([0.0, 1.0, 2.0, 5.0]))
    (0.0, 0.0, 0.0)
    """
    if not a.is_floating_point() or not b.is_floating_point():
        return float("inf")
    if a.numel() != b.numel() and (repeated := _distance_repeated(a.detach(), b.detach())) < float("inf"):
        return repeated
    if a.numel() != b.numel() and (at_one := _distance_at_one(a.detach(), b.detach())) < float("inf"):
        return at_one
    a, b = a.detach().flatten(), b.detach().flatten()
    if len(a) != len(b):
        a, b = a[a != 0], b[b != 0]
        return unordered_distance(a, b) if len(a) == len(b) > 0 else float("inf")
    unordered = unordered_distance(a, b)
    if a.numel() < 2 or not bool((a != 0).any()):
        return unordered
    factor = float(torch.dot(a, b) / torch.dot(a, a))
    return min(unordered, distance(a * factor, b)) if factor > 0 else unordered
