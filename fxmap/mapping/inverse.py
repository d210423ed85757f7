"""Invert a mapping, as far as its expressions can be solved for their sources.

Idea: an expression that moves numbers is solved from the outside in: what a transpose makes is transposed back, parts of a
join are cut out of it. A slice tells some rows of its tensor; where the slices of one tensor together tell all its rows,
they are joined to it, and that is solved in turn. Every solution is tried: numbers that are all different must be the same
after they went there and back.

Cost: linear in the number of expressions, times the rows of slices; trying takes the largest tensor, as integers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fxmap.errors import FxmapError
from fxmap.expressions.arithmetic import Scaled
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Columns, Concat, Gather, Permute, Reshape, Slice, Transpose, take
from fxmap.expressions.simplify import Shapes, shape_of, simplify
from fxmap.expressions.values import FAULTS
from fxmap.mapping.findings import Findings
from fxmap.mapping.proof import Status

# Rows of a tensor that are known, and the expression over destination keys that makes them.
_Piece = tuple[tuple[int, ...], Expression]


def invert(
    expressions: Mapping[str, Expression], findings: Findings, shapes: Shapes
) -> tuple[dict[str, Expression], Findings]:
    """Return the expressions that make source keys from destination keys, with their findings.

    Args:
        expressions: by destination key.
        findings: of the mapping.
        shapes: of the source's tensors. Slices of a tensor whose shape is not among them are taken for all of it where they
            leave no gap; a join of such tensors is not taken apart.

    What cannot be solved has no expression, and `reasons` says why.

    >>> back, found = invert({"q": Slice(Source("qk"), 0, 2), "k": Slice(Source("qk"), 2, 4)}, Findings(), {"qk": (4, 3)})
    >>> print(back["qk"])
    concat(q, k)
    """
    solved = _Solver(shapes)
    for key, expression in sorted(expressions.items(), key=lambda item: not isinstance(item[1], Source)):
        solved.solve(expression, Source(key))
    solved.join_pieces()
    made = {key: found for key, expression in expressions.items() if (found := shape_of(expression, shapes)) is not None}
    order = dict.fromkeys(source for expression in expressions.values() for source in expression.sources())
    back = {key: simplify(solved.found[key], made) for key in order if key in solved.found}
    wrong = [key for key in back if not isinstance(back[key], Source) and not _comes_back(key, back, expressions, shapes)]
    for key in wrong:
        del back[key]
    reasons = {key: _reason(key, expressions, solved) for key in order if key not in back}
    statuses = dict.fromkeys(back, Status.MATCHED) | dict.fromkeys((*reasons, *findings.unexpected), Status.MISSING)
    used = {source for expression in back.values() for source in expression.sources()}
    lost = tuple(key for key in findings.statuses if key not in used)
    return back, Findings(
        statuses, unexpected=lost, reasons=reasons, src_shapes={key: made[key] for key in made if key in used}
    )


# A tensor has no more rows; a slice of a mapping from elsewhere may say so.
_MOST_ROWS = 2**26


class _Solver:
    """The source keys that are solved, and the rows that are known of others, and of tensors made from them."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.found: dict[str, Expression] = {}
        self.pieces: dict[Expression, list[_Piece]] = {}

    def solve(self, made: Expression, value: Expression) -> None:
        """Note what follows for the operands of `made` from what its value is."""
        match made:
            case Source(key):
                self.found.setdefault(key, value)
            case Slice(of, start, stop) if start >= 0 and stop - start <= _MOST_ROWS:
                self.pieces.setdefault(of, []).append((tuple(range(start, stop)), value))
            case Gather(of, rows):
                self.pieces.setdefault(of, []).append((rows, value))
            case Columns(of, order) if _is_permutation(order, self._extent(of, 1)):
                self.solve(of, Columns(value, _inverted(order)))
            case Transpose(of):
                self.solve(of, Transpose(value))
            case Permute(of, axes):
                self.solve(of, Permute(value, _inverted(axes)))
            case Scaled(of, amount) if amount and math.isfinite(amount) and abs(math.frexp(amount)[0]) == 0.5:
                self.solve(of, Scaled(value, 1 / amount))  # a power of two, without rounding
            case Reshape(of, _) if (shape := shape_of(of, self.shapes)) is not None:
                self.solve(of, Reshape(value, shape))
            case Concat(parts):
                self._take_apart(parts, value)

    def _take_apart(self, parts: Sequence[Expression], value: Expression) -> None:
        begin = 0
        for part in parts:
            rows = self._extent(part, 0)
            if rows is None:
                return
            self.solve(part, Slice(value, begin, begin + rows))
            begin += rows

    def join_pieces(self) -> None:
        """Solve every tensor all rows of which are known, and what follows from it."""
        done: set[Expression] = set()
        while ready := [of for of in self.pieces if of not in done and self._is_covered(of)]:
            for of in ready:
                done.add(of)
                self.solve(of, _joined(self.pieces[of], self.total(of)))

    def total(self, of: Expression) -> int:
        """Return the number of rows; where it is not known, of those up to the last one that is."""
        known = self._extent(of, 0)
        return 1 + max((max(rows) for rows, _ in self.pieces[of] if rows), default=-1) if known is None else known

    def _is_covered(self, of: Expression) -> bool:
        known, total = {row for rows, _ in self.pieces[of] for row in rows}, self.total(of)
        return len(known) == total and known == set(range(total))

    def _extent(self, of: Expression, axis: int) -> int | None:
        shape = shape_of(of, self.shapes)
        return None if shape is None or len(shape) <= axis else shape[axis]


def _joined(pieces: Sequence[_Piece], total: int) -> Expression:
    """Return a tensor from pieces that cover its rows; a piece that adds nothing to those before it is left out."""
    chosen: list[_Piece] = []
    known: dict[int, int] = {}
    begin = 0
    for rows, value in sorted(pieces, key=lambda piece: (piece[0][:1], -len(piece[0]))):
        if set(rows) <= known.keys():
            continue
        for local, row in enumerate(rows):
            known.setdefault(row, begin + local)
        chosen.append((rows, value))
        begin += len(rows)
    parts = tuple(value for _, value in chosen)
    whole = parts[0] if len(parts) == 1 else Concat(parts)
    return take(whole, tuple(known[row] for row in range(total)), begin)


def _is_permutation(order: Sequence[int], extent: int | None) -> bool:
    return sorted(order) == list(range(len(order))) and extent in (None, len(order))


def _inverted(order: Sequence[int]) -> tuple[int, ...]:
    """Return the permutation that undoes another.

    >>> _inverted((2, 0, 1))
    (1, 2, 0)
    """
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def _comes_back(key: str, back: Mapping[str, Expression], expressions: Mapping[str, Expression], shapes: Shapes) -> bool:
    """Whether the numbers of a source tensor, all different, are the same after they went there and back.

    True as well where shapes are not known, so that nothing can be tried.
    """
    used = set(back[key].sources())
    needed = {source for own in used for source in expressions[own].sources()}
    if not all(source in shapes for source in needed):
        return True
    state = _numbered({source: shapes[source] for source in sorted(needed)})
    try:
        again = back[key].evaluate({own: expressions[own].evaluate(state) for own in used})
    except (*FAULTS, FxmapError):
        return False
    return again.shape == state[key].shape and torch.equal(again, state[key].to(again.dtype))


def _numbered(shapes: Shapes) -> dict[str, Tensor]:
    state, begin = {}, 0
    for key, shape in shapes.items():
        count = math.prod(shape)
        state[key] = torch.arange(begin, begin + count).reshape(shape)
        begin += count
    return state


def _reason(key: str, expressions: Mapping[str, Expression], solved: _Solver) -> str:
    """Say why a source key is not solved."""
    own, expression = next((own, part) for own, part in expressions.items() if key in part.sources())
    for of, pieces in solved.pieces.items():
        if key in of.sources():
            known = {row for rows, _ in pieces for row in rows}
            gap = next((row for row in range(solved.total(of)) if row not in known), None)
            if gap is not None:
                return f"row {gap} of {of} is in no key of the destination"
    if any(isinstance(part, Concat) for part in _parts(expression)) and key not in solved.shapes:
        return (
            f"{own} = {expression} cannot be taken apart: the shapes of its parts are not known. Pass like=src.state_dict()"
        )
    return f"{own} = {expression} cannot be solved for it"


def _parts(expression: Expression) -> Iterator[Expression]:
    yield expression
    for operand in expression.operands():
        yield from _parts(operand)
