"""Simplify expressions: rewrite each as an equal one with fewer operations.

Stages compose expressions without looking inside: rows of a join of parts, a shift that undoes another. Every rule here is
an identity of tensors; none changes a value, not even by rounding.
"""

from collections.abc import Mapping

from fxmap.expressions.arithmetic import Full, Scaled, Shifted
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Columns, Concat, Gather, Permute, Placed, Reshape, Slice, Transpose, take

Shapes = Mapping[str, tuple[int, ...]]


def simplify(expression: Expression, shapes: Shapes) -> Expression:
    """Return an equal expression, simplified until no rule applies. `shapes` are those of the source's tensors.

    >>> parts = Concat((Source("q"), Source("k")))
    >>> str(simplify(Slice(parts, 2, 4), {"q": (2, 3), "k": (2, 3)}))
    'k'
    """
    return _step(expression.rebuilt(lambda part: simplify(part, shapes)), shapes)


def _step(made: Expression, shapes: Shapes) -> Expression:
    match made:
        case Slice(of, start, stop):
            return _rows(of, tuple(range(start, stop)), shapes) or made
        case Gather(of, rows):
            return _rows(of, rows, shapes) or made
        case Reshape(Reshape(of, _), shape):
            return _step(Reshape(of, shape), shapes)
        case Reshape(Full(_, value, like), shape):
            return Full(shape, value, like)
        case Reshape(of, shape):
            return of if shape_of(of, shapes) == shape else made
        case Shifted(Shifted(of, inner), outer):
            return of if inner + outer == 0 else Shifted(of, inner + outer)
        case Scaled(Scaled(of, inner), outer):
            return of if inner * outer == 1 else Scaled(of, inner * outer)
        case Shifted(of, 0.0) | Scaled(of, 1.0):
            return of
        case Transpose(Transpose(of)):
            return of
        case Concat(parts):
            return _joined(parts, shapes)
    return made


def _rows(of: Expression, rows: tuple[int, ...], shapes: Shapes) -> Expression | None:
    """Select rows directly from the operands of a slice, gather or concatenation; None where its shape is unknown."""
    match of:
        case Slice(inner, start, _):
            picked = tuple(start + row for row in rows)
            return _rows(inner, picked, shapes) or take(inner, picked, -1)
        case Gather(inner, before):
            picked = tuple(before[row] for row in rows)
            return _rows(inner, picked, shapes) or take(inner, picked, -1)
        case Full(shape, value, like):
            return Full((len(rows), *shape[1:]), value, like)
        case Concat(parts):
            one = _rows_of_one(parts, shapes)
            if one is not None:
                return _rows(one.of, tuple(one.rows[row] for row in rows), shapes)
            begin = 0
            for part in parts:
                extents = shape_of(part, shapes)
                if extents is None:
                    return None
                if all(begin <= row < begin + extents[0] for row in rows):
                    local = tuple(row - begin for row in rows)
                    return _rows(part, local, shapes) or take(part, local, extents[0])
                begin += extents[0]
            return None
    extents = shape_of(of, shapes)
    return None if not extents else take(of, rows, extents[0])


def _rows_of_one(parts: tuple[Expression, ...], shapes: Shapes) -> Gather | None:
    """Return a concatenation of rows of one tensor, of known shape, as these rows."""
    picked: list[int] = []
    tensors: set[Expression] = set()
    for part in parts:
        match part:
            case Slice(of, start, stop):
                picked += range(start, stop)
            case Gather(of, rows):
                picked += rows
            case _:
                return None
        tensors.add(of)
    one = next(iter(tensors))
    return Gather(one, tuple(picked)) if len(tensors) == 1 and shape_of(one, shapes) else None


def _joined(parts: tuple[Expression, ...], shapes: Shapes) -> Expression:
    """Merge neighbouring slices of a concatenation that are consecutive rows of one tensor."""
    merged: list[Expression] = []
    for part in parts:
        last = merged[-1] if merged else None
        if isinstance(part, Slice) and isinstance(last, Slice) and part.of == last.of and last.stop == part.start:
            merged[-1] = _step(Slice(part.of, last.start, part.stop), shapes)
        else:
            merged.append(part)
    return merged[0] if len(merged) == 1 else Concat(tuple(merged))


def shape_of(expression: Expression, shapes: Shapes) -> tuple[int, ...] | None:
    """Return the shape of an expression's tensor, or None where it is not known.

    >>> shape_of(Slice(Source("a"), 0, 2), {"a": (4, 3)})
    (2, 3)
    """
    match expression:
        case Source(key):
            return shapes.get(key)
        case Full(shape, _, _):
            return shape
        case Reshape(_, shape):
            return shape
        case Slice(of, start, stop):
            inner = shape_of(of, shapes)
            return None if inner is None else (stop - start, *inner[1:])
        case Gather(of, rows):
            inner = shape_of(of, shapes)
            return None if inner is None else (len(rows), *inner[1:])
        case Placed(of, _, total):
            inner = shape_of(of, shapes)
            return None if inner is None else (total, *inner[1:])
        case Columns(of, order):
            inner = shape_of(of, shapes)
            return None if inner is None else (inner[0], len(order), *inner[2:])
        case Shifted(of, _) | Scaled(of, _):
            return shape_of(of, shapes)
        case Transpose(of):
            inner = shape_of(of, shapes)
            return None if inner is None else inner[::-1]
        case Permute(of, axes):
            inner = shape_of(of, shapes)
            return None if inner is None else tuple(inner[axis] for axis in axes)
        case Concat(parts):
            inner_shapes = [shape_of(part, shapes) for part in parts]
            if any(shape is None for shape in inner_shapes):
                return None
            known = [shape for shape in inner_shapes if shape is not None]
            return (sum(shape[0] for shape in known), *known[0][1:])
    return None
