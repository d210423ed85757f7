"""Numbers: the source's numbers in a table, in which a solved number is found again."""

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

ABSENT, ZERO, ONE = -1, -2, -3

# Two numbers are the same below this difference, relative to the larger of the number and its neighbours in the solution.
_SAME = 1e-9


class NumberTable:
    """All numbers of named tensors, sorted; of equal ones, the first tensor's counts."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.names = list(tensors)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        flat = [tensor.detach().flatten().double() for tensor in tensors.values()]
        self.begins = (
            torch.tensor([0, *torch.tensor([len(part) for part in flat]).cumsum(0).tolist()]) if flat else torch.zeros(1)
        )
        numbers = torch.cat(flat) if flat else torch.zeros(0, dtype=torch.float64)
        order = torch.argsort(numbers, stable=True)
        self.numbers = numbers
        self._sorted, self._order = numbers[order], order

    def find(self, values: Tensor, scale: Tensor | float | None = None) -> Tensor:
        """Return the place of each number in the table; ZERO, ONE or ABSENT where it has none."""
        flat = values.flatten()
        size = flat.abs().amax() if scale is None and len(flat) else torch.as_tensor(scale or 1.0, dtype=torch.float64)
        tolerance = _SAME * (flat.abs() + 1e-2 * size)
        found = torch.full(flat.shape, ABSENT)
        if len(self._sorted):
            place = torch.searchsorted(self._sorted, flat - tolerance)
            near = place.clamp_max(len(self._sorted) - 1)
            close = (self._sorted[near] - flat).abs() <= tolerance
            found = torch.where(close, self._order[near], found)
        found = torch.where((flat - 1).abs() <= tolerance, ONE, found)
        found = torch.where(flat.abs() <= 1e-10 * size, ZERO, found)
        return found.view(values.shape)

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
