"""Functions of one number that are made of pieces, compared exactly: where they break, and what they are between.

Idea: relu(x), (x + |x|) / 2 and where(x > 0, x, 0) are one function, which breaks at 0. Where every comparison is between
straight lines, the breaks are roots of these, and each piece is an analytic function, which its values at a few points tell
from any other, with probability one. So a function is computed piece by piece from the operations that it is composed of;
breaks across which nothing changes are dropped; and what is left is the same for every spelling.

A piece may depend on a second number, a slope that is a parameter. What is selected by comparing that has no known breaks.

>>> x = line(1.0, 0.0)
>>> half = scaled(plus(x, absolute(x)), 0.5)
>>> half.shape == chosen(above(x, line(0.0, 0.0)), x, line(0.0, 0.0)).shape
True
>>> print(half.shape)
broken at 0

Cost: linear in the pieces, for every operation.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

# Where pieces are told apart: points near 0, and far ones, where gates that are far away open. Behind them the slopes.
_POINTS = torch.tensor((-2.3171, -0.7319, 0.4137, 1.8713, -61.717, 53.371), dtype=torch.float64)
_SLOPES = torch.tensor((0.3179, -1.2113, 0.7717, 2.3711, -0.5171, 1.1317), dtype=torch.float64)
_NEAR = 4
_DIGITS = 9
_CLOSE = 1e-12


class NotPiecewiseError(ValueError):
    """A function breaks where it is not known, or has values that are not finite."""


@dataclass(frozen=True)
class Part:
    """An analytic function of the numbers x and w; `straight` are a and b where it is a x + b."""

    compute: Callable[[Tensor, Tensor], Tensor]
    straight: tuple[float, float] | None = None

    def at(self, x: float) -> float:
        """Return the value at one point, which must be finite, with the first of the slopes."""
        if self.straight is not None:
            return self.straight[0] * x + self.straight[1]
        value = float(self.compute(torch.tensor(x, dtype=torch.float64), _SLOPES[0]))
        if not math.isfinite(value):
            raise NotPiecewiseError("its values are not finite")
        return value

    @cached_property
    def values(self) -> tuple[float | None, ...]:
        """The values at the points that tell functions apart, rounded; None where one far out is not finite."""
        found = self.compute(_POINTS, _SLOPES).expand(len(_POINTS)).tolist()
        if not all(math.isfinite(value) for value in found[:_NEAR]):
            raise NotPiecewiseError("its values are not finite")
        return tuple(rounded(value) if math.isfinite(value) else None for value in found)


def rounded(number: float) -> float:
    """Round a number to what two spellings of a function agree in: nine digits, and no more than nine behind the point."""
    exponent = math.floor(math.log10(abs(number))) + 1 if abs(number) >= 1 else 0
    return round(number, _DIGITS - exponent) + 0.0  # no -0.0


@dataclass(frozen=True)
class Shape:
    """What tells a function from others: where it breaks, its values there, and each piece by its values at fixed points.

    `jumps` says that it has another limit at a break than its value there.
    """

    breaks: tuple[float, ...]
    there: tuple[float, ...]
    pieces: tuple[tuple[float | None, ...], ...]
    jumps: bool = False

    def __str__(self) -> str:
        return f"broken at {', '.join(f'{point:g}' for point in self.breaks)}" if self.breaks else "unbroken"


@dataclass(frozen=True)
class Piecewise:
    """A function with breaks: its parts before, between and after them, and the part whose value it has at each of them."""

    breaks: tuple[float, ...]
    parts: tuple[Part, ...]
    there: tuple[Part, ...]

    @property
    def constant(self) -> float | None:
        """The number that the function is everywhere; None where it is not one, or has breaks."""
        straight = self.parts[0].straight
        return straight[1] if not self.breaks and straight is not None and not straight[0] else None

    def refined(self, points: Sequence[float]) -> "Piecewise":
        """Return the same function with breaks at `points`, which hold its own."""
        place = [sum(mark < point and not _same(mark, point) for mark in self.breaks) for point in points]
        own = [next((i for i, mark in enumerate(self.breaks) if _same(mark, point)), None) for point in points]
        there = tuple(self.parts[i] if j is None else self.there[j] for i, j in zip(place, own, strict=True))
        after = [i + (j is not None) for i, j in zip(place, own, strict=True)]
        return Piecewise(tuple(points), (self.parts[0], *(self.parts[i] for i in after)), there)

    def inside(self) -> list[float]:
        """Return a point inside of every piece."""
        if not self.breaks:
            return [0.0]
        middle = [(one + other) / 2 for one, other in pairwise(self.breaks)]
        return [self.breaks[0] - 1, *middle, self.breaks[-1] + 1]

    @cached_property
    def shape(self) -> Shape:
        """What tells the function from others, without the breaks across which nothing changes."""
        kept = [i for i in range(len(self.breaks)) if not self._is_smooth(i)]
        parts = (self.parts[0], *(self.parts[i + 1] for i in kept))
        breaks = tuple(rounded(self.breaks[i]) for i in kept)
        there = tuple(rounded(self.there[i].at(self.breaks[i])) for i in kept)
        jumps = any(not self._is_joined(i) for i in kept)
        return Shape(breaks, there, tuple(part.values for part in parts), jumps)

    def _is_joined(self, i: int) -> bool:
        """Whether the pieces on both sides of a break have the value there."""
        place = self.breaks[i]
        return all(_close(self.there[i].at(place), self.parts[j].at(place)) for j in (i, i + 1))

    def _is_smooth(self, i: int) -> bool:
        if not _all_close(self.parts[i].values, self.parts[i + 1].values):
            return False
        return _close(self.there[i].at(self.breaks[i]), self.parts[i].at(self.breaks[i]))


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_CLOSE, abs_tol=_CLOSE)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-8, abs_tol=1e-8)


def _all_close(ours: Sequence[float | None], theirs: Sequence[float | None]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(a == b if a is None or b is None else _close(a, b) for a, b in pairs)


def line(a: float, b: float) -> Piecewise:
    """Return a x + b."""
    return Piecewise((), (Part(lambda x, _: a * x + b, (a, b)),), ())


SLOPE = Piecewise((), (Part(lambda _, w: w),), ())


def mapped(
    function: Callable[..., Tensor], *values: Piecewise, straight: Callable[..., tuple[float, float] | None]
) -> Piecewise:
    """Return an analytic function of values; `straight` makes a line of lines, where it is one."""
    breaks = _joined(values)
    fine = [value.refined(breaks) for value in values]

    def joined(parts: tuple[Part, ...]) -> Part:
        lines = [part.straight for part in parts]
        made = None if None in lines else straight(*lines)
        return Part(lambda x, w: function(*(part.compute(x, w) for part in parts)), made)

    parts = tuple(joined(own) for own in zip(*(value.parts for value in fine), strict=True))
    return Piecewise(tuple(breaks), parts, tuple(joined(own) for own in zip(*(value.there for value in fine), strict=True)))


def _joined(values: Sequence[Piecewise], more: Sequence[float] = ()) -> list[float]:
    found: list[float] = []
    for point in sorted((*(point for value in values for point in value.breaks), *more)):
        if not found or not _same(found[-1], point):
            found.append(point)
    return found


def plus(one: Piecewise, other: Piecewise) -> Piecewise:
    """Return the sum of two values."""
    return mapped(torch.add, one, other, straight=lambda a, b: (a[0] + b[0], a[1] + b[1]))


def times(one: Piecewise, other: Piecewise) -> Piecewise:
    """Return the product of two values."""
    return mapped(torch.mul, one, other, straight=_product)


def _product(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float] | None:
    if a[0] and b[0]:
        return None
    constant, other = (b[1], a) if b[0] == 0 else (a[1], b)
    return constant * other[0], constant * other[1]


def scaled(value: Piecewise, factor: float) -> Piecewise:
    """Return a value times a number."""
    return times(value, line(0.0, factor))


def over(one: Piecewise, other: Piecewise) -> Piecewise:
    """Return the quotient of two values."""
    return mapped(torch.div, one, other, straight=lambda a, b: None if b[0] or not b[1] else (a[0] / b[1], a[1] / b[1]))


def applied(function: Callable[[Tensor], Tensor], value: Piecewise) -> Piecewise:
    """Return an analytic function of one value."""

    def constant(a: tuple[float, float]) -> tuple[float, float] | None:
        return None if a[0] else (0.0, float(function(torch.tensor(a[1], dtype=torch.float64))))

    return mapped(function, value, straight=constant)


def above(one: Piecewise, other: Piecewise, *, equal: bool = False) -> Piecewise:
    """Return 1 where one value is above another, 0 elsewhere; with `equal`, also 1 where they are equal."""
    return _judged(one, other, lambda sign: sign > 0 or (equal and sign == 0))


def equal(one: Piecewise, other: Piecewise) -> Piecewise:
    """Return 1 where two values are equal, else 0."""
    return _judged(one, other, lambda sign: sign == 0)


def _judged(one: Piecewise, other: Piecewise, holds: Callable[[int], bool]) -> Piecewise:
    less = plus(one, scaled(other, -1.0))
    roots = []
    for part in (*less.parts, *less.there):
        if part.straight is None:
            raise NotPiecewiseError("what it compares is no straight line")
        if part.straight[0]:
            roots.append(-part.straight[1] / part.straight[0])
    fine = less.refined(_joined([less], roots))

    def sign(part: Part, x: float) -> Part:
        value = part.at(x)
        found = holds(0 if _same(value, 0.0) else 1 if value > 0 else -1)
        return Part(lambda x, _: torch.full_like(x, float(found)), (0.0, float(found)))

    parts = tuple(sign(part, x) for part, x in zip(fine.parts, fine.inside(), strict=True))
    return Piecewise(fine.breaks, parts, tuple(sign(part, x) for part, x in zip(fine.there, fine.breaks, strict=True)))


def chosen(condition: Piecewise, one: Piecewise, other: Piecewise) -> Piecewise:
    """Return one value where a condition is not 0, and another one elsewhere."""
    breaks = _joined([condition, one, other])
    asked, ours, theirs = (value.refined(breaks) for value in (condition, one, other))

    def pick(which: Part, a: Part, b: Part) -> Part:
        if which.straight is None or which.straight[0]:
            raise NotPiecewiseError("its condition is no comparison")
        return a if which.straight[1] else b

    parts = tuple(pick(*three) for three in zip(asked.parts, ours.parts, theirs.parts, strict=True))
    there = tuple(pick(*three) for three in zip(asked.there, ours.there, theirs.there, strict=True))
    return Piecewise(tuple(breaks), parts, there)


def larger(one: Piecewise, other: Piecewise) -> Piecewise:
    """Return the larger of two values."""
    return chosen(above(one, other), one, other)


def smaller(one: Piecewise, other: Piecewise) -> Piecewise:
    """Return the smaller of two values."""
    return chosen(above(one, other), other, one)


def bounded(value: Piecewise, lower: float | None, upper: float | None) -> Piecewise:
    """Return a value that is bounded from below, above, or both."""
    value = value if lower is None else larger(value, line(0.0, lower))
    return value if upper is None else smaller(value, line(0.0, upper))


def absolute(value: Piecewise) -> Piecewise:
    """Return the absolute value."""
    return larger(value, scaled(value, -1.0))
