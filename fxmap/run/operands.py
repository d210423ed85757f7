"""Operands of pieces: compare the inputs of two operations that are made of pieces, beside their results.

Idea: relu(h - 100) and relu(3 h - 100) are both 0 on all inputs that a test draws. So the operands are compared as well: in
order, in full, whether or not they influence the result. Two differences are allowed:

- a layout: maps that are `b c h w` and `b h w c`. The elements of the results must then be moved as well.
- a scale, of functions with f(c x) = c f(x) for c > 0: one result must then be c times the other, and not be 0.

>>> x = torch.tensor([[-1.0, 2.0], [3.0, -4.0]])
>>> print(relation(x, x, 1e-9), relation(x, x.t(), 1e-9), relation(x, 3 * x, 1e-9), relation(x, x.abs(), 1e-9))
the same moved the same, times 3 different

Cost: a comparison of two values; their elements are sorted if they are not in the same order.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from fxmap.run.distance import distance, unordered_distance


@dataclass(frozen=True, slots=True)
class Relation:
    """How one value follows from another: whether it is equal to it, up to moved elements and a factor.

    `reshaped` says that the shapes differ, and `neutral` that any factor would do: for zeros, and for values that are not
    floating-point.
    """

    equal: bool
    moved: bool = False
    factor: float = 1.0
    reshaped: bool = False
    neutral: bool = False

    def __str__(self) -> str:
        if not self.equal:
            return "different"
        scaled = "" if self.factor == 1.0 else f", times {self.factor:g}"
        return f"{'moved' if self.moved else 'the same'}{scaled}"


def relation(ours: Tensor, theirs: Tensor, tolerance: float) -> Relation:
    """Return how one value follows from another, within a relative tolerance."""
    ours, theirs = ours.detach(), theirs.detach()
    reshaped = ours.shape != theirs.shape
    if ours.numel() != theirs.numel():
        try:
            shape = torch.broadcast_shapes(ours.shape, theirs.shape)  # type: ignore[no-untyped-call]
            ours, theirs = ours.expand(shape), theirs.expand(shape)
        except RuntimeError:
            return Relation(False)
    floating = ours.is_floating_point() and theirs.is_floating_point()
    neutral = not floating or not bool(ours.any())
    a, b = ours.reshape(-1), theirs.reshape(-1)
    if distance(a, b) <= tolerance:
        return Relation(True, reshaped=reshaped, neutral=neutral)
    if ours.is_complex() or theirs.is_complex():
        return Relation(False)
    if unordered_distance(a, b) <= tolerance:
        return Relation(True, moved=True, reshaped=reshaped, neutral=neutral)
    factor = _factor(a, b) if floating else None
    if factor is None:
        return Relation(False)
    if distance(a * factor, b) <= tolerance:
        return Relation(True, factor=factor, reshaped=reshaped)
    moved = unordered_distance(a * factor, b) <= tolerance
    return Relation(moved, moved=moved, factor=factor, reshaped=reshaped)


def _factor(a: Tensor, b: Tensor) -> float | None:
    """Return the ratio of the norm of the second value to that of the first; None if a norm is 0 or not finite."""
    sizes = float(a.norm()), float(b.norm())
    return sizes[1] / sizes[0] if all(0 < size < float("inf") for size in sizes) else None


@dataclass(frozen=True, slots=True)
class PieceWatch:
    """Two aligned operations of one kind that may be made of pieces: their fx nodes, and their operands as (argument, node).

    `homogeneous` says that a factor of the operands is a factor of the result.
    """

    pair: tuple[str, str]
    homogeneous: bool
    src: str
    dst: str
    ours: tuple[tuple[str, str], ...]
    theirs: tuple[tuple[str, str], ...]

    def differs(self, relations: Mapping[tuple[str, str], Relation], result: Relation) -> str | None:
        """Return the argument for which the two operations read different values, or None.

        Args:
            relations: how the destination's operands follow from the source's, by the nodes of both.
            result: how the destination's result follows from the source's.
        """
        for argument in sorted({argument for argument, _ in (*self.ours, *self.theirs)}):
            ours, theirs = ([node for name, node in read if name == argument] for read in (self.ours, self.theirs))
            orders = permutations(ours) if len(ours) <= _ORDERS else [tuple(ours)]
            if len(ours) != len(theirs) or not any(
                all(self._same(relations.get(both, _DIFFERENT), result) for both in zip(order, theirs, strict=True))
                for order in orders
            ):
                return argument
        return None

    def _same(self, operand: Relation, result: Relation) -> bool:
        if not operand.equal or (operand.moved and not operand.reshaped and not result.moved):
            return False
        factor = result.factor if self.homogeneous and not result.neutral else 1.0
        return operand.neutral or math.isclose(operand.factor, factor, rel_tol=1e-6)


_DIFFERENT = Relation(False)


# Up to this number of operands of one argument, every order is tried.
_ORDERS = 4


class Operands:
    """Compares operands during the destination's run, and notes the pieces that read other values than the source's."""

    def __init__(self, watches: Sequence[PieceWatch], source: Mapping[str, Tensor], tolerance: float) -> None:
        self.differing: dict[tuple[str, str], str] = {}
        self._source, self._tolerance = source, tolerance
        self._relations: dict[tuple[str, str], Relation] = {}
        self._watches: dict[str, list[PieceWatch]] = {}
        self._read: dict[str, set[str]] = {}
        for watch in watches:
            self._watches.setdefault(watch.dst, []).append(watch)
            for argument, node in watch.theirs:
                self._read.setdefault(node, set()).update(name for other, name in watch.ours if other == argument)

    def see_result(self, node: str, value: Tensor) -> None:
        """Check the operands of the pieces whose result is this value."""
        for watch in self._watches.get(node, ()):
            if watch.src in self._source:
                result = relation(self._source[watch.src], value, self._tolerance)
                if result.equal and (argument := watch.differs(self._relations, result)) is not None:
                    self.differing[watch.pair] = argument

    def see_operand(self, node: str, value: Tensor | float) -> None:
        """Compare a value or a number that pieces read: the one that the destination continues with."""
        for name in self._read.get(node, ()):
            if name in self._source:
                self._relations[name, node] = relation(self._source[name], as_tensor(value), self._tolerance)


def as_tensor(value: Tensor | float) -> Tensor:
    """Return a tensor unchanged, and a number as a float64 tensor."""
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
