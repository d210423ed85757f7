"""Layout: from index maps of composed operands to expressions, and back to the tensors that are stored."""

from collections.abc import Callable, Iterator, Mapping
from math import prod

import torch
from torch import Tensor

from fxmap.expressions import Concat, Expression, Full, Gather, Reshape, Scaled, Shifted, Source, Sum, take
from fxmap.graph import OpGraph
from fxmap.operands import ZERO, Composition, Numbering

Leaf = Callable[[str], Expression]


def composed_expression(composition: Composition, numbering: Numbering) -> Expression:
    """Write an operand in terms of the stored tensors."""
    terms = []
    for term in composition.terms:
        expression = arrange(term.numbers, numbering, Source)
        terms.append(expression if term.factor == 1.0 else Scaled(expression, term.factor))
    total = terms[0] if len(terms) == 1 else Sum(tuple(terms))
    return total if composition.shift == 0.0 else Shifted(total, composition.shift)


def arrange(numbers: Tensor, numbering: Numbering, leaf: Leaf) -> Expression:
    """Write a tensor whose elements have these numbers, by the simplest expression: whole tensors, rows, or elements.

    `leaf` gives the expression of a numbered tensor. Linear in the number of elements.
    """
    shape = tuple(numbers.shape)
    first = next((axis for axis, extent in enumerate(shape) if extent > 1), max(len(shape) - 1, 0))
    table = numbers.reshape(shape[first] if shape else 1, -1)
    inner = tuple(shape[first + 1 :])
    pieces = list(_pieces(table, numbering, inner, leaf))
    whole = pieces[0] if len(pieces) == 1 else Concat(tuple(pieces))
    made = (prod(shape[first : first + 1]), *inner)
    if isinstance(whole, Reshape) and whole.shape == made and isinstance(whole.of, Source) and _shape_of(whole.of, numbering) == shape:
        return whole.of
    if isinstance(whole, Source) and _shape_of(whole, numbering) == shape:
        return whole
    return whole if made == shape else Reshape(whole, shape)


def _shape_of(source: Source, numbering: Numbering) -> tuple[int, ...] | None:
    place = numbering.places.get(source.key)
    return None if place is None else place.shape


def _pieces(table: Tensor, numbering: Numbering, inner: tuple[int, ...], leaf: Leaf) -> Iterator[Expression]:
    """Yield consecutive rows that come from one tensor, or are zero; all as elements where rows are mixed."""
    count, width = table.shape
    owners = numbering.owners(table)
    starts = table[:, 0]
    begins = torch.tensor([numbering.places[numbering.path(o)].begin if o != ZERO else 0 for o in owners[:, 0].tolist()])
    aligned = (table == starts[:, None] + torch.arange(width)).all(1) & ((starts - begins) % width == 0)
    empty = (table == ZERO).all(1)
    sizes = [numbering.places[numbering.path(o)].size if o != ZERO else width for o in owners[:, 0].tolist()]
    whole_rows = torch.tensor([size % width == 0 for size in sizes])
    if not bool(((aligned & (owners == owners[:, :1]).all(1) & whole_rows) | empty).all()):
        yield _elements(table, numbering, inner, leaf)
        return
    like = leaf(numbering.path(int(owners.max()))) if bool((owners != ZERO).any()) else None
    row = 0
    while row < count:
        owner = int(owners[row, 0])
        stop = row + 1
        while stop < count and int(owners[stop, 0]) == owner:
            stop += 1
        if owner == ZERO:
            assert like is not None
            yield Full((stop - row, *inner), 0.0, like)
        else:
            path = numbering.path(owner)
            place = numbering.places[path]
            total = place.size // width
            of = leaf(path)
            if place.shape != (total, *inner):
                of = Reshape(of, (total, *inner))
            yield take(of, tuple(((starts[row:stop] - place.begin) // width).tolist()), total)
        row = stop


def _elements(table: Tensor, numbering: Numbering, inner: tuple[int, ...], leaf: Leaf) -> Expression:
    """Gather single elements of the tensors, one after the other."""
    owners = [owner for owner in numbering.owners(table).unique().tolist() if owner != ZERO]
    parts: list[Expression] = []
    local = torch.full_like(table, -1)
    begin = 0
    for owner in owners:
        place = numbering.places[numbering.path(owner)]
        parts.append(Reshape(leaf(numbering.path(owner)), (place.size,)))
        mine = (table >= place.begin) & (table < place.begin + place.size)
        local[mine] = table[mine] - place.begin + begin
        begin += place.size
    if bool((local < 0).any()):
        parts.append(Full((1,), 0.0, parts[0]))
        local[local < 0] = begin
    joined = parts[0] if len(parts) == 1 else Concat(tuple(parts))
    return Reshape(Gather(joined, tuple(local.flatten().tolist())), (table.shape[0], *inner))


def store(
    expressions: Mapping[str, Expression], ops: OpGraph, wanted: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Expression], dict[str, str]]:
    """Make stored tensors from the composed operands that hold their elements.

    `expressions` are those of the composed operands by name, `wanted` the shapes of the tensors to make. Where an operand is
    the sum of several tensors, the first one takes all of it, and the others are zero: only their sum is ever read.

    Returns:
        The expressions, and for what cannot be made the reason.
    """
    known = {name: composition for name, composition in ops.composed.items() if name in expressions}
    operands = Numbering({name: composition.shape for name, composition in known.items()})
    made: dict[str, Expression] = {}
    reasons: dict[str, str] = {}
    touched = {path for composition in ops.composed.values() for path in ops.numbering.paths(composition)}
    for path in wanted.keys() & touched:
        numbers = _gathered(path, known, ops.numbering, operands)
        found = int((numbers != _UNKNOWN).sum())
        if found < numbers.numel():
            reasons[path] = f"a source was found for {found} of its {numbers.numel()} elements alone"
            continue
        made[path] = arrange(numbers, operands, lambda name: _undone(expressions[name], known[name]))
    return made, reasons


_UNKNOWN = -2


def _gathered(path: str, known: Mapping[str, Composition], numbering: Numbering, operands: Numbering) -> Tensor:
    """Return where in the operands every element of a stored tensor is."""
    place = numbering.places[path]
    result = torch.full((place.size,), _UNKNOWN)
    for name, composition in known.items():
        taken = torch.zeros(composition.shape, dtype=torch.bool)
        for term in composition.terms:
            present = term.numbers >= 0
            mine = present & (term.numbers >= place.begin) & (term.numbers < place.begin + place.size)
            # What an earlier term has taken is zero here.
            value = torch.where(taken, ZERO, operands.numbers(name))
            elements = term.numbers[mine] - place.begin
            free = result[elements] == _UNKNOWN
            result[elements[free]] = value[mine][free]
            taken |= present
    return result.view(place.shape)


def _undone(expression: Expression, composition: Composition) -> Expression:
    """Return what the first term of an operand must be: without the shift and the factor."""
    if composition.shift:
        expression = Shifted(expression, -composition.shift)
    factor = composition.terms[0].factor
    return expression if factor == 1.0 else Scaled(expression, 1 / factor)
