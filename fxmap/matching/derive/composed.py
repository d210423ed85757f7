"""Composed operands: from index maps to expressions of the stored tensors, and back.

Code may put an operand together from stored tensors: `torch.cat([q, k, v])`, a slice, a transpose, a sum of two tables. The
graph keeps of it an index map: for each element of the operand, the number of the stored element that it is (see
`fxmap.graph.index_maps`). Here the index map becomes an expression that a person can read.

Idea: of several expressions that give the same elements, take the simplest. `arrange` looks at the map row by row: where
whole rows of one stored tensor follow one another, they are that tensor, a slice of it, or a choice of its rows; rows of
several tensors are concatenated; only where rows are mixed are single elements gathered. `solve_parts` goes the other way:
given what the operands are to be, it asks for each element of a stored tensor where in the operands it stands, and writes
that index map as an expression in turn.

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
from fxmap.expressions.layout import Concat, Gather, Reshape, take
from fxmap.graph.index_maps import ZERO, Composition, Numbering, Place, distinct
from fxmap.graph.opgraph import OpGraph

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
    # One row of (1, c) is simpler than c elements, where it is a whole row of something.
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
    """Yield consecutive rows that come from one tensor, or are zero; nothing where a row is not a whole row of one."""
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
    """Gather single elements of the tensors, one after the other."""
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
    """Return what stored tensors are, where a destination operand is put together as one of the source is.

    Both have the same terms, each of elements of one tensor, at the same places: then the tensors correspond as a whole,
    elements that are not read included.
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
        if ours.size != other.size or a.numbers.numel() != b.numbers.numel():
            return {}
        if not torch.equal(a.numbers.flatten() - ours.begin, b.numbers.flatten() - other.begin):
            return {}
        pairs[target] = Source(source) if ours.shape == other.shape else Reshape(Source(source), other.shape)
    return pairs


@dataclass(frozen=True, slots=True)
class _Block:
    """Elements of a stored tensor by number, and the expression of the tensor that they are; zero where it is None."""

    name: str
    numbers: Tensor
    expression: Expression | None


def solve_parts(
    expressions: Mapping[str, Expression], ops: OpGraph, wanted: Collection[str]
) -> tuple[dict[str, Expression], dict[str, str]]:
    """Make stored tensors from the composed operands that hold their elements.

    `expressions` are those of the composed operands by name, `wanted` the tensors to make. Where an operand is a sum, one
    term takes all of it, and the others are zero: only their sum is read.

    Returns:
        The expressions, and for what cannot be made the reason.
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
        if found < numbers.numel():
            reasons[path] = f"a source was found for {found} of its {numbers.numel()} elements alone"
        elif bool((numbers >= 0).any()):
            made[path] = arrange(numbers, places, leaves.__getitem__)
        else:
            made[path] = Full(tuple(numbers.shape), 0.0, next(iter(leaves.values())))
    return made, reasons


_UNKNOWN = -2


def _blocks(name: str, composition: Composition, made: Expression) -> Iterator[_Block]:
    """Part an operand into what its terms must be."""
    # A term times 0 is no part of the value.
    terms = [term for term in composition.terms if term.factor]
    whole = Shifted(made, -composition.shift) if composition.shift else made
    taken = torch.zeros(composition.shape, dtype=torch.bool)
    # A term that repeats an element cannot take what differs from place to place.
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
    """Return where in the blocks every element of a stored tensor is; the first block that has it counts."""
    result = torch.full((place.size,), _UNKNOWN)
    for block in blocks:
        mine = place.holds(block.numbers)
        elements = block.numbers[mine] - place.begin
        free = result[elements] == _UNKNOWN
        value = places.numbers(block.name)[mine] if block.expression is not None else torch.full_like(elements, ZERO)
        result[elements[free]] = value[free]
    return result.view(place.shape)
