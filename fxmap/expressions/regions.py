"""Regions: evaluate a block of an expression, and read no more of its sources than that block needs.

Expressions that move numbers pass the block on to their operands: rows of a slice are other rows of its tensor, columns of a
transpose are rows. Those that compute number by number do so as well. Where a block of the result needs all of the operands
(a fold, a norm, a reshape that regroups axes), the expression is evaluated, and the block is cut out of it.

>>> import torch
>>> from fxmap.expressions.base import Source
>>> state = {"qkv": torch.arange(12).reshape(6, 2)}
>>> evaluate_region(Transpose(Slice(Source("qkv"), 2, 4)), state, ((1, 2), (0, 2)))
tensor([[5, 7]])

Cost: what the block costs; at worst that of the whole expression.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fxmap.expressions.arithmetic import Difference, Full, RowScaled, Scaled, Shifted, Sum
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.functions import full, row_scaled
from fxmap.expressions.layout import Columns, Concat, Gather, Permute, Reshape, Slice, Transpose
from fxmap.expressions.simplify import Shapes, shape_of

# A block of a tensor: the first index and the one behind the last, for each axis.
Region = tuple[tuple[int, int], ...]


def whole(shape: Sequence[int]) -> Region:
    """Return the region that is all of a tensor.

    >>> whole((4, 2))
    ((0, 4), (0, 2))
    """
    return tuple((0, extent) for extent in shape)


def extents(region: Region) -> tuple[int, ...]:
    """Return the shape of a region.

    >>> extents(((1, 3), (0, 2)))
    (2, 2)
    """
    return tuple(stop - start for start, stop in region)


def cut(value: Tensor, region: Region) -> Tensor:
    """Return a region of a tensor, as a view."""
    return value[tuple(slice(start, stop) for start, stop in region)] if region else value


def evaluate_region(expression: Expression, state: Mapping[str, Any], region: Region) -> Tensor:
    """Evaluate a block of an expression; equal, bit for bit, to that block of the evaluated expression.

    Args:
        expression: over the keys of `state`.
        state: the source's tensors. Slices of them are taken where they suffice, which reads no more of lazy ones.
        region: for each axis of the result, the first index and the one behind the last.

    Raises:
        MappingError: a source key is absent.
    """
    shapes = {key: tuple(state[key].shape) for key in expression.sources() if key in state}
    return _block(expression, state, region, shapes)


def _block(made: Expression, state: Mapping[str, Any], region: Region, shapes: Shapes) -> Tensor:
    match made:
        case Source():
            return cut(made.evaluate(state), region)
        case Full(_, value, like):
            return full(extents(region), value, like.evaluate(state))
        case Shifted(of, amount):
            return _block(of, state, region, shapes) + amount
        case Scaled(of, amount):
            return _block(of, state, region, shapes) * amount
        case Sum(parts) if _same_shapes(parts, shapes):
            return sum((_block(part, state, region, shapes) for part in parts[1:]), _block(parts[0], state, region, shapes))
        case Difference(of, minus) if _same_shapes((of, minus), shapes):
            return _block(of, state, region, shapes) - _block(minus, state, region, shapes)
        case RowScaled(of, scale) if region and len(shape_of(scale, shapes) or ()) == 1:
            return row_scaled(_block(of, state, region, shapes), _block(scale, state, region[:1], shapes))
        case _:
            found = _moved(made, state, region, shapes)
            return cut(made.evaluate(state), region) if found is None else found


def _moved(made: Expression, state: Mapping[str, Any], region: Region, shapes: Shapes) -> Tensor | None:
    """Return a block of an expression that moves numbers; None for any other, or where it needs more than blocks."""
    match made:
        case Slice(of, start, _):
            if (extents := shape_of(of, shapes)) is not None:
                made.refuse_fewer(extents)
            (first, last), rest = region[0], region[1:]
            return _block(of, state, ((start + first, start + last), *rest), shapes)
        case Gather(of, rows):
            return _rows(of, rows[region[0][0] : region[0][1]], state, region[1:], shapes)
        case Columns(of, order):
            if (extents := shape_of(of, shapes)) is None:
                return None
            every = _block(of, state, (region[0], (0, extents[1]), *region[2:]), shapes)
            return every[:, list(order[region[1][0] : region[1][1]])]
        case Concat(parts):
            return _joined(parts, state, region, shapes)
        case Transpose(of):
            return _block(of, state, region[::-1], shapes).t().contiguous()
        case Permute(of, axes):
            inner = [(0, 0)] * len(axes)
            for place, axis in enumerate(axes):
                inner[axis] = region[place]
            return _block(of, state, tuple(inner), shapes).permute(*axes).contiguous()
        case Reshape(of, shape):
            return _reshaped(of, shape, state, region, shapes)
    return None


def _rows(of: Expression, rows: tuple[int, ...], state: Mapping[str, Any], rest: Region, shapes: Shapes) -> Tensor:
    """Return rows by number, each run of consecutive ones as one block."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and runs[-1][1] == row:
            runs[-1][1] = row + 1
        else:
            runs.append([row, row + 1])
    if len(runs) > max(1, len(rows) // 4):
        # Many short runs: one block from the first row to the last, of which rows are taken.
        first, last = min(rows), max(rows) + 1
        return _block(of, state, ((first, last), *rest), shapes)[[row - first for row in rows]]
    blocks = [_block(of, state, ((start, stop), *rest), shapes) for start, stop in runs]
    return torch.cat(blocks) if blocks else _block(of, state, ((0, 0), *rest), shapes)


def _joined(parts: tuple[Expression, ...], state: Mapping[str, Any], region: Region, shapes: Shapes) -> Tensor | None:
    (start, stop), rest = region[0], region[1:]
    extents = [shape_of(part, shapes) for part in parts]
    blocks, begin = [], 0
    for part, shape in zip(parts, extents, strict=True):
        if shape is None:
            return None
        first, last = max(start - begin, 0), min(stop - begin, shape[0])
        if first < last:
            blocks.append(_block(part, state, ((first, last), *rest), shapes))
        begin += shape[0]
    if not blocks:
        return _block(parts[0], state, ((0, 0), *rest), shapes)
    dtypes = {block.dtype for block in blocks}
    # Of several dtypes the whole join has the widest, which the blocks at hand need not tell.
    return torch.cat(blocks) if len(dtypes) == 1 and len(_dtypes(parts, state)) == 1 else None


def _dtypes(parts: tuple[Expression, ...], state: Mapping[str, Any]) -> set[torch.dtype]:
    return {state[key].dtype for part in parts for key in part.sources()}


def _reshaped(
    of: Expression, shape: tuple[int, ...], state: Mapping[str, Any], region: Region, shapes: Shapes
) -> Tensor | None:
    """Return rows of a reshaped tensor, if they are consecutive rows of the tensor as it was."""
    inner = shape_of(of, shapes)
    if inner is None or not inner or not shape or -1 in shape or 0 in (*inner, *shape):
        return None
    wanted = extents(region)
    shared = 0
    while shared < min(len(inner), len(shape)) and inner[shared] == shape[shared]:
        shared += 1
    if all(wanted[axis] == shape[axis] for axis in range(shared, len(shape))):
        # The axes that are cut are the same in both shapes.
        rest = tuple((0, extent) for extent in inner[shared:])
        return _block(of, state, (*region[:shared], *rest), shapes).reshape(wanted)
    row, inner_row = math.prod(shape[1:]), math.prod(inner[1:])
    first, last = region[0][0] * row, region[0][1] * row
    if wanted[1:] != shape[1:] or first % inner_row or last % inner_row:
        return None
    rows = (first // inner_row, last // inner_row)
    return _block(of, state, (rows, *((0, extent) for extent in inner[1:])), shapes).reshape(wanted)


def _same_shapes(parts: tuple[Expression, ...], shapes: Shapes) -> bool:
    found = {shape_of(part, shapes) for part in parts}
    return len(found) == 1 and None not in found
