"""Composed operands: from index maps to expressions of the stored tensors, and back.

Code may put an operand together from stored tensors: `torch.cat([q, k, v])`, a slice, a transpose, a sum of two tables. The
graph keeps of it an index map: for each element of the operand, the number of the stored element that it is (see
`fxmap.graph.index_maps`). Here the index map becomes an expression that a person can read.

Idea: of several expressions that give the same elements, take the simplest. `arrange` looks at the map row by row: where
whole rows of one stored tensor follow one another, they are that tensor, a slice of it, or a selection of its rows; rows of
several tensors are concatenated; single elements are gathered only where rows are mixed. `solve_parts` goes the other way:
given the values that the operands must have, it finds the position of each element of a stored tensor in the operands, and
writes that index map as an expression in turn.

>>> numbering = Numbering({"q": (1, 2), "k": (1, 2)})
>>> joined = torch.cat([numbering.numbers("k"), numbering.numbers("q")])
>>> joined.tolist()
[[2, 3], [0, 1]]
>>> print(arrange(joined, numbering, Source))
concat(k, q)
>>> print(arrange(joined.flatten()[[0, 3]], numbering, Source))
concat(reshape(k, [2])[0:1], reshape(q, [2])[1:2])

Cost: linear in the number of elements. Index maps of this kind are standard in compilers, where they are called layout or
access maps: S. Verdoolaege, ICMS 2010, doi:10.1007/978-3-642-15582-6_49 (isl); here they are written out in full.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from fxmap.expressions.arithmetic import Full, Scaled, Shifted, Sum
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Concat, Gather, Placed, Reshape, take
from fxmap.graph.index_maps import ZERO, Composition, Numbering, Place, distinct
from fxmap.graph.opgraph import TENSOR, OpGraph

Leaf = Callable[[str], Expression]


def composed_expression(composition: Composition, numbering: Numbering) -> Expression:
    """Return the expression that computes a composed operand from the stored tensors."""
    terms = []
    for term in composition.terms:
        expression = arrange(term.numbers, numbering, Source)
        terms.append(expression if term.factor == 1.0 else Scaled(expression, term.factor))
    total = terms[0] if len(terms) == 1 else Sum(tuple(terms))
    return total if composition.shift == 0.0 else Shifted(total, composition.shift)


def arrange(numbers: Tensor, numbering: Numbering, leaf: Leaf) -> Expression:
    """Return the simplest expression of a tensor whose elements have these numbers: whole tensors, rows, or elements.

    `leaf` gives the expression of a numbered tensor. Linear in the number of elements.
    """
    shape = tuple(numbers.shape)
    first = next((axis for axis, extent in enumerate(shape) if extent > 1), max(len(shape) - 1, 0))
    # One row of (1, c) is simpler than c elements, if it is a whole row of a tensor.
    for axis in (max(first - 1, 0), first):
        inner = tuple(shape[axis + 1 :])
        table = numbers.reshape(prod(shape[axis : axis + 1]), -1)
        pieces = list(_pieces(table, numbering, inner, leaf))
        if pieces:
            break
    else:
        pieces = [_elements(table, numbering, inner, leaf)]
    whole = pieces[0] if len(pieces) == 1 else Concat(tuple(pieces))
    if isinstance(whole, Reshape) and isinstance(whole.of, Source) and numbering.shapes.get(whole.of.key) == shape:
        return whole.of
    return whole if (table.shape[0], *inner) == shape else Reshape(whole, shape)


def _pieces(table: Tensor, numbering: Numbering, inner: tuple[int, ...], leaf: Leaf) -> Iterator[Expression]:
    """Yield expressions of consecutive rows that come from one tensor, or are zero; nothing if a row is not a whole row."""
    count, width = table.shape
    owners = numbering.owners(table)
    starts = table[:, 0]
    places = [None if owner == ZERO else numbering.places[numbering.path(owner)] for owner in owners[:, 0].tolist()]
    begins = torch.tensor([0 if place is None else place.begin for place in places])
    aligned = (table == starts[:, None] + torch.arange(width)).all(1) & ((starts - begins) % width == 0)
    empty = (table == ZERO).all(1)
    whole_rows = torch.tensor([place is None or place.size % width == 0 for place in places])
    if not bool(((aligned & (owners == owners[:, :1]).all(1) & whole_rows) | empty).all()):
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
    """Return the expression that gathers single elements of the tensors."""
    owners = [owner for owner in distinct(numbering.owners(table)) if owner != ZERO]
    parts: list[Expression] = []
    local = torch.full_like(table, -1)
    begin = 0
    for owner in owners:
        place = numbering.places[numbering.path(owner)]
        parts.append(Reshape(leaf(numbering.path(owner)), (place.size,)))
        mine = place.holds(table)
        local[mine] = table[mine] - place.begin + begin
        begin += place.size
    if bool((local < 0).any()):
        parts.append(Full((1,), 0.0, parts[0]))
        local[local < 0] = begin
    joined = parts[0] if len(parts) == 1 else Concat(tuple(parts))
    return Reshape(Gather(joined, tuple(local.flatten().tolist())), (table.shape[0], *inner))


def corresponding_parts(made: Expression, src: OpGraph, ops: OpGraph, composition: Composition) -> dict[str, Expression]:
    """Return expressions of stored tensors, for a destination operand that is composed in the same way as its counterpart.

    Both have the same terms, each of elements of one tensor, at the same places: then the tensors correspond as a whole,
    including elements that are not read. The source's may have more rows, before these and behind them, as a table of
    positions of which the first ones are kept for padding, or fewer. The result is empty if the two are composed
    differently.
    """
    while isinstance(made, Reshape):
        made = made.of
    theirs = src.composed.get(made.key) if isinstance(made, Source) else None
    if theirs is None or src.numbering is None or ops.numbering is None or theirs.shift != composition.shift:
        return {}
    if len(theirs.terms) != len(composition.terms):
        return {}
    pairs: dict[str, Expression] = {}
    for a, b in zip(theirs.terms, composition.terms, strict=True):
        source, target = src.numbering.sole(a.numbers), ops.numbering.sole(b.numbers)
        if source is None or target is None or a.factor != b.factor or target in pairs:
            return {}
        ours, other = src.numbering.places[source], ops.numbering.places[target]
        if a.numbers.numel() != b.numbers.numel():
            return {}
        ahead = distinct(a.numbers.flatten() - ours.begin - b.numbers.flatten() + other.begin)
        found = _rows_from(source, ours, other, ahead[0]) if len(ahead) == 1 else None
        if found is None:
            return {}
        pairs[target] = found
    return pairs


def _rows_from(path: str, ours: Place, other: Place, ahead: int) -> Expression | None:
    """Return the rows of a source tensor that a destination tensor is, if its elements stand so far ahead; else None."""
    whole, width = Source(path), prod(ours.shape[1:])
    if not ahead and ours.size == other.size:
        return whole if ours.shape == other.shape else Reshape(whole, other.shape)
    if not width or ahead % width or other.size % width:
        return None
    total, first = other.size // width, ahead // width
    start, stop = max(-first, 0), min(total, ours.shape[0] - first)
    made = take(whole, tuple(range(start + first, stop + first)), ours.shape[0])
    if stop - start < total:
        return Placed(made, tuple(range(start, stop)), total) if ours.shape[1:] == other.shape[1:] else None
    return made if (total, *ours.shape[1:]) == other.shape else Reshape(made, other.shape)


@dataclass(frozen=True, slots=True)
class _Block:
    """Numbers of stored elements, and the expression of the tensor that holds their values; they are zero if it is None."""

    name: str
    numbers: Tensor
    expression: Expression | None


def solve_parts(
    expressions: Mapping[str, Expression], ops: OpGraph, wanted: Collection[str]
) -> tuple[dict[str, Expression], dict[str, str]]:
    """Derive expressions of stored tensors from the composed operands that hold their elements.

    `expressions` are those of the composed operands by name, `wanted` the tensors to make. If an operand is a sum, one
    term takes all of it, and the others are zero: only their sum is read.

    Returns:
        The expressions, and a reason for each tensor that cannot be made. Of a table of which the destination reads some
        rows alone, all of which are found, these rows are made.
    """
    assert ops.numbering is not None
    blocks = [block for name, made in expressions.items() for block in _blocks(name, ops.composed[name], made)]
    places = Numbering({block.name: tuple(block.numbers.shape) for block in blocks})
    leaves = {block.name: block.expression for block in blocks if block.expression is not None}
    made: dict[str, Expression] = {}
    reasons: dict[str, str] = {}
    for path in sorted(wanted):
        numbers = _gathered(ops.numbering.places[path], blocks, places)
        found = int((numbers != _UNKNOWN).sum())
        if found < numbers.numel() and (rows := _rows_read(path, numbers, ops)) is not None:
            made[path] = Placed(arrange(numbers[list(rows)], places, leaves.__getitem__), rows, len(numbers))
        elif found < numbers.numel():
            reasons[path] = f"a source was found for {found} of its {numbers.numel()} elements alone"
        elif bool((numbers >= 0).any()):
            made[path] = arrange(numbers, places, leaves.__getitem__)
        else:
            made[path] = Full(tuple(numbers.shape), 0.0, next(iter(leaves.values())))
    return made, reasons


_UNKNOWN = -2


def _rows_read(path: str, numbers: Tensor, ops: OpGraph) -> tuple[int, ...] | None:
    """Return the rows of a stored tensor that are known, if they are known as a whole and all that is read; else None.

    `numbers` are the positions of its elements, `_UNKNOWN` where no source was found.
    """
    known = (numbers != _UNKNOWN).reshape(len(numbers), -1) if numbers.dim() else numbers.new_zeros(0, 1).bool()
    rows = tuple(known.all(1).nonzero().flatten().tolist())
    if not rows or int(known.sum()) > len(rows) * known.shape[1]:
        return None
    assert ops.numbering is not None
    place, flat = ops.numbering.places[path], known.flatten()
    for tensor in ops.of_kind({TENSOR}):
        if tensor.key == path:
            return None
        for term in ops.composed[tensor.key].terms if tensor.key in ops.composed else ():
            if not bool(flat[term.numbers[place.holds(term.numbers)] - place.begin].all()):
                return None
    return rows


def _blocks(name: str, composition: Composition, made: Expression) -> Iterator[_Block]:
    """Yield the values that the terms of a composed operand must have, as blocks of stored elements."""
    # A term times 0 is no part of the value.
    terms = [term for term in composition.terms if term.factor]
    whole = Shifted(made, -composition.shift) if composition.shift else made
    taken = torch.zeros(composition.shape, dtype=torch.bool)
    # A term that repeats an element cannot take values that differ from place to place.
    for index, term in sorted(enumerate(terms), key=lambda item: _repeats(item[1].numbers)):
        present = term.numbers >= 0
        takes = present & ~taken if len(terms) == 1 or not _repeats(term.numbers) else torch.zeros_like(present)
        expression = whole if term.factor == 1.0 else Scaled(whole, 1 / term.factor)
        yield _Block(f"{name}#{index}", torch.where(takes, term.numbers, ZERO), expression)
        yield _Block(f"{name}#{index} zero", torch.where(present & ~takes, term.numbers, ZERO), None)
        taken |= takes


def _repeats(numbers: Tensor) -> bool:
    present = numbers[numbers >= 0]
    return len(distinct(present)) < present.numel()


def _gathered(place: Place, blocks: Sequence[_Block], places: Numbering) -> Tensor:
    """Return the position in the blocks of every element of a stored tensor; the first block that has it counts."""
    result = torch.full((place.size,), _UNKNOWN)
    for block in blocks:
        mine = place.holds(block.numbers)
        elements = block.numbers[mine] - place.begin
        free = result[elements] == _UNKNOWN
        value = places.numbers(block.name)[mine] if block.expression is not None else torch.full_like(elements, ZERO)
        result[elements[free]] = value[free]
    return result.view(place.shape)
