"""Numbers: the source's numbers in a table, in which a solved number is found again."""

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from fxmap.graph.index_maps import distinct

ABSENT, ZERO, ONE = -1, -2, -3

# Two numbers are the same below this difference, relative to the larger of the number and its neighbours in the solution.
_SAME = 1e-9


class NumberTable:
    """All numbers of named tensors, sorted; of equal ones, the first tensor's counts."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.names = list(tensors)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        flat = [tensor.detach().flatten().double() for tensor in tensors.values()]
        sizes = torch.tensor([len(part) for part in flat], dtype=torch.long)
        self.begins = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
        self.numbers = torch.cat(flat) if flat else torch.zeros(0, dtype=torch.float64)
        self.sums: dict[str, tuple[str, ...]] = {}
        self.multiples: dict[str, tuple[str, float]] = {}
        self._sort()

    def _sort(self) -> None:
        self._order = torch.argsort(self.numbers, stable=True)
        self._sorted = self.numbers[self._order]

    def sum_of(self, places: list[int]) -> int | None:
        """Return the place of the sum of some numbers, which is added to the table with those of the tensors beside them.

        None where the numbers are not at the same place of tensors of one shape.
        """
        owners = [self.owner(place) for place in places]
        offsets = {place - int(self.begins[self.names.index(name)]) for place, name in zip(places, owners, strict=True)}
        shapes = {self.shapes[name] for name in owners}
        if len(offsets) > 1 or len(shapes) > 1 or any(name in self.sums for name in owners):
            return None
        name = " + ".join(owners)
        if name not in self.shapes:
            self.sums[name] = tuple(owners)
            self._add(name, shapes.pop(), torch.stack([self._of(owner) for owner in owners]).sum(0))
        return int(self.begins[self.names.index(name)]) + offsets.pop()

    def add_multiples(self, values: Tensor, factors: tuple[float, ...]) -> None:
        """Add the tensors that are a constant times another, if with them every number of `values` is in the table."""
        left = values.flatten()[(self.find(values) == ABSENT).flatten()]
        if not len(left) or not factors:
            return
        by = torch.tensor(factors, dtype=torch.float64)[:, None]
        every = self.find(left / by, scale=values.abs().max() / by.abs())
        if not bool((every >= 0).any(0).all()):
            return
        owners: list[tuple[str, float]] = []
        open_ = torch.ones(len(left), dtype=torch.bool)
        for factor, found in zip(factors, every, strict=True):
            fits = open_ & (found >= 0)
            if bool(fits.any()):
                owners += [(self.names[index], factor) for index in self._owning(found[fits])]
                open_ &= ~fits
        for name, factor in owners:
            own = f"{name} * {factor:g}"
            if own not in self.shapes and name not in self.multiples:
                self.multiples[own] = name, factor
                self._add(own, self.shapes[name], self._of(name) * factor)

    def multiplied(self, places: Tensor) -> bool:
        """Whether some places are in a tensor that is a constant times another."""
        found = places[places >= 0]
        return bool(self.multiples) and any(self.names[index] in self.multiples for index in self._owning(found))

    def _owning(self, places: Tensor) -> list[int]:
        return distinct(torch.searchsorted(self.begins, places, right=True) - 1)

    def _of(self, name: str) -> Tensor:
        begin = int(self.begins[self.names.index(name)])
        return self.numbers[begin : begin + prod(self.shapes[name])]

    def _add(self, name: str, shape: tuple[int, ...], numbers: Tensor) -> None:
        self.names.append(name)
        self.shapes[name] = shape
        self.numbers = torch.cat([self.numbers, numbers])
        self.begins = torch.cat([self.begins, self.begins[-1:] + len(numbers)])
        self._sort()

    def find(self, values: Tensor, scale: Tensor | float | None = None) -> Tensor:
        """Return the place of each number in the table; ZERO, ONE or ABSENT where it has none.

        `scale` is the size of the numbers beside them, the largest one if it is not given.
        """
        if not values.numel():
            return torch.full(values.shape, ABSENT)
        sizes = values.abs()
        size = sizes.amax() if scale is None else torch.as_tensor(scale or 1.0 if isinstance(scale, float) else scale)
        tolerance = _SAME * (sizes + 1e-2 * size)
        found = torch.full(values.shape, ABSENT)
        if len(self._sorted):
            near = torch.searchsorted(self._sorted, values - tolerance).clamp_max_(len(self._sorted) - 1)
            close = (self._sorted[near] - values).abs_() <= tolerance
            found = torch.where(close, self._order[near], found)
        found[(values - 1).abs_() <= tolerance] = ONE
        found[sizes <= 1e-10 * size] = ZERO
        return found

    def split(self, total: float, sizes: tuple[int, int]) -> tuple[float, float] | None:
        """Return two numbers with this sum, of tensors of these sizes; None if there are none, or several."""
        others = self.find(total - self.numbers, scale=abs(total) + 1.0)
        pairs = []
        for one in (others >= 0).nonzero().flatten().tolist():
            owners = self.owner(one), self.owner(int(others[one]))
            if any(name.startswith("%") for name in owners) or owners[0] == owners[1]:
                continue  # of what is computed, the stored numbers count
            if tuple(prod(self.shapes[name]) for name in owners) == sizes:
                pairs.append((float(self.numbers[one]), float(self.numbers[others[one]])))
        return pairs[0] if len(pairs) == 1 or (len(pairs) == 2 and sizes[0] == sizes[1]) else None

    def owner(self, place: int) -> str:
        """Return the name of the tensor that a place belongs to."""
        return self.names[int(torch.searchsorted(self.begins, place, right=True)) - 1]
