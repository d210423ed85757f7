"""Arrange: from the places of a weight's numbers in the source's tensors to an expression that a person can read.

Whole tensors and blocks of them, their axes in another order, are a reshape, a slice and a permutation; several of them are
joined along the axis at which they part; only what is neither is gathered number by number.

>>> from fxmap.expressions.base import Source
>>> numbering = Numbering({"a": (2, 3), "b": (2, 3)})
>>> print(arranged(numbering.numbers("a").t(), numbering, Source))
transpose(a)
>>> print(arranged(torch.cat([numbering.numbers("a"), numbering.numbers("b")], 1), numbering, Source))
transpose(concat(transpose(a), transpose(b)))
"""

from math import prod

import torch
from torch import Tensor

from fxmap.expressions.arithmetic import Full
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Concat, Permute, Reshape, Slice, Transpose
from fxmap.graph.index_maps import ZERO, Numbering
from fxmap.matching.derive.composed import Leaf, arrange


def arranged(numbers: Tensor, numbering: Numbering, leaf: Leaf) -> Expression:
    """Return an expression of a tensor whose elements have these numbers; ZERO stands for 0."""
    if bool((numbers == ZERO).all()):
        return Full(tuple(numbers.shape), 0.0, leaf(numbering.path(0)))
    if numbers.dim() == 0:
        return Reshape(arranged(numbers.reshape(1), numbering, leaf), ())
    return _block(numbers, numbering, leaf) or _joined(numbers, numbering, leaf) or arrange(numbers, numbering, leaf)


def _block(numbers: Tensor, numbering: Numbering, leaf: Leaf) -> Expression | None:
    """Return the expression of consecutive elements of one tensor with their axes in another order; None if they are not."""
    path = numbering.sole(numbers) if bool((numbers >= 0).all()) else None
    if path is None:
        return None
    if 1 in numbers.shape and numbers.numel() > 1:
        # Axes of length one have no order.
        squeezed = _block(numbers.squeeze(), numbering, leaf)
        return None if squeezed is None else _reshaped(squeezed, tuple(numbers.shape), numbering)
    place, size = numbering.places[path], numbers.numel()
    begin = int(numbers.min()) - place.begin
    strides = _strides(numbers)
    if strides is None:
        return None
    axes = sorted(range(numbers.dim()), key=lambda axis: (-strides[axis], axis))
    inner = [numbers.shape[axis] for axis in axes]
    if any(strides[axis] != prod(inner[i + 1 :]) for i, axis in enumerate(axes) if numbers.shape[axis] > 1):
        return None
    made = _range(leaf(path), place.shape, begin, size, tuple(inner))
    return _permuted(made, [axes.index(axis) for axis in range(numbers.dim())])


def _strides(numbers: Tensor) -> list[int] | None:
    """Return by how much the numbers grow along each axis; None if that is not the same everywhere, or is negative."""
    origin = numbers[(0,) * numbers.dim()]
    strides = [
        int(numbers.select(axis, 1).flatten()[0] - origin) if extent > 1 else 0 for axis, extent in enumerate(numbers.shape)
    ]
    expected = origin.clone()
    for axis, stride in enumerate(strides):
        steps = torch.arange(numbers.shape[axis]) * stride
        expected = expected + steps.reshape([-1 if other == axis else 1 for other in range(numbers.dim())])
    return strides if min(strides, default=0) >= 0 and torch.equal(expected.expand_as(numbers), numbers) else None


def _range(of: Expression, shape: tuple[int, ...], begin: int, size: int, inner: tuple[int, ...]) -> Expression:
    """Return `size` consecutive elements of a tensor, in the shape `inner`."""
    row = prod(shape[1:])
    if size == prod(shape):
        return of if shape == inner else Reshape(of, inner)
    if shape and row and begin % row == 0 and size % row == 0:
        rows = Slice(of, begin // row, (begin + size) // row)
        return rows if (size // row, *shape[1:]) == inner else Reshape(rows, inner)
    part = Slice(Reshape(of, (prod(shape),)), begin, begin + size)
    return part if inner == (size,) else Reshape(part, inner)


def _reshaped(made: Expression, shape: tuple[int, ...], numbering: Numbering) -> Expression:
    if isinstance(made, Reshape):
        made = made.of
    if isinstance(made, Source) and numbering.shapes.get(made.key) == shape:
        return made
    return Reshape(made, shape)


def _permuted(made: Expression, axes: list[int]) -> Expression:
    if axes == sorted(axes):
        return made
    return Transpose(made) if axes == [1, 0] else Permute(made, tuple(axes))


def _joined(numbers: Tensor, numbering: Numbering, leaf: Leaf) -> Expression | None:
    """Return the expression of blocks that follow one another along one axis; None if there is no such axis."""
    for axis in range(numbers.dim()):
        rows = numbers.movedim(axis, 0)
        parts = _runs(rows, numbering, leaf)
        if parts is None:
            continue
        made = parts[0] if len(parts) == 1 else Concat(tuple(parts))
        back = [*range(1, axis + 1), 0, *range(axis + 1, numbers.dim())]
        return _permuted(made, back)
    return None


def _runs(rows: Tensor, numbering: Numbering, leaf: Leaf) -> list[Expression] | None:
    """Return expressions of runs of rows, each as long as it can be; None if a row is no block, or there are very many."""
    parts: list[Expression] = []
    owners = numbering.owners(rows).flatten(1) if rows.dim() > 1 else numbering.owners(rows)[:, None]
    begin = 0
    while begin < len(rows):
        owner = owners[begin, 0]
        other = (owners[begin:] != owner).any(1).nonzero()
        stop = begin + (int(other[0]) if len(other) else len(rows) - begin)
        made: Expression | None = None
        while stop > begin and made is None:
            part = rows[begin:stop]
            empty = int(owner) == ZERO
            made = Full(tuple(part.shape), 0.0, leaf(numbering.path(0))) if empty else _block(part, numbering, leaf)
            stop -= made is None
        if made is None or len(parts) == _MOST_PARTS:
            return None
        parts.append(made)
        begin = stop
    return parts


_MOST_PARTS = 64
