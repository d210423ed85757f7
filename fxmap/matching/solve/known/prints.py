"""Prints: numbers by which an element's values over the samples are found again among many others.

Two kinds: exact ones, and ones that do not change where the values are scaled or shifted.

>>> import torch
>>> values = torch.tensor([[1.0, 5.0], [2.0, 7.0], [4.0, 1.0]], dtype=torch.float64)
>>> prints = Prints(values)
>>> prints.related(torch.stack([3 - values[:, 1], values[:, 0].exp()], 1)).tolist()
[True, False]
"""

import torch
from torch import Tensor

_EXACT, _RELATED = 1e-9, 1e-7
_AT_ONCE = 4096


class Prints:
    """The prints of the columns of a matrix `samples elements`, sorted."""

    def __init__(self, values: Tensor) -> None:
        generator = torch.Generator().manual_seed(7)
        self._signs = torch.randn(3, len(values), generator=generator, dtype=torch.float64)
        self.classes, self.firsts = self._classes(values)
        self._exact = (self._signs[:2] @ values)[:, self.firsts]
        self._sorted, self._second = self._scaled(values, self.firsts)

    def _classes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return a number for every column, the same for equal columns, and the first column of each number."""
        first, second = self._signs[:2] @ values
        scale = values.norm(dim=0).clamp_min(1e-30)
        order = torch.argsort(first, stable=True)
        gaps = (first[order][1:] - first[order][:-1]).abs() > _EXACT * scale[order][1:]
        gaps |= (second[order][1:] - second[order][:-1]).abs() > 100 * _EXACT * scale[order][1:]
        sorted_classes = torch.cat([torch.zeros(1, dtype=torch.long), gaps.long().cumsum(0)]) if len(order) else order
        classes = torch.empty_like(order)
        classes[order] = sorted_classes
        firsts = torch.full((int(sorted_classes[-1]) + 1 if len(order) else 0,), len(order))
        firsts.scatter_reduce_(0, classes, torch.arange(len(order)), "amin")
        return classes, firsts

    def find(self, column: Tensor) -> int | None:
        """Return the first column of the matrix that is equal to one; None if there is none."""
        first, second = (self._signs[:2] @ column).tolist()
        size = float(column.norm())
        close = (self._exact[0] - first).abs() <= 100 * _EXACT * size
        close &= (self._exact[1] - second).abs() <= 100 * _EXACT * size
        found = close.nonzero()
        return int(self.firsts[found[0]]) if len(found) else None

    def _scaled(self, values: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return two prints of some columns, sorted by the first, that neither a factor nor a shift changes."""
        # Few at a time: their differences from the mean are as large as they are.
        begins = range(0, len(places), _AT_ONCE)
        parts = [self._relative(values[:, places[begin : begin + _AT_ONCE]]) for begin in begins]
        first, second = (torch.cat(found) for found in zip(*parts, strict=True)) if parts else self._relative(values)
        order = first.argsort()
        return first[order], second[order]

    def _relative(self, values: Tensor) -> tuple[Tensor, Tensor]:
        centred = values - values.mean(0)
        norms = centred.norm(dim=0)
        still = norms <= 1e-12 * values.norm(dim=0).clamp_min(1e-30)
        unit = torch.where(still, torch.zeros((), dtype=values.dtype), centred / norms.clamp_min(1e-300))
        prints = self._signs @ unit
        sign = torch.where(prints[2] < 0, -1.0, 1.0)
        return prints[0] * sign, prints[1] * sign

    def related(self, values: Tensor) -> Tensor:
        """Return, for each column, whether some column of the matrix is equal to it up to a factor and a shift.

        A column that does not vary is related to all.
        """
        first, second = self._relative(values)
        found = (first == 0) & (second == 0)
        if not len(self._sorted):
            return found
        place = torch.searchsorted(self._sorted, first)
        for step in (-1, 0, 1):
            near = (place + step).clamp(0, len(self._sorted) - 1)
            close = (self._sorted[near] - first).abs() <= _RELATED
            found |= close & ((self._second[near] - second).abs() <= _RELATED)
        return found
