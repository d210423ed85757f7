"""Orders: elements of a value with its axes in another order, where a network has groups and channels the other way round.

>>> import torch
>>> [order.tolist() for order in orders(torch.arange(6), (2, 3))]
[[0, 3, 1, 4, 2, 5]]
"""

from collections.abc import Iterator
from itertools import permutations

import torch
from torch import Tensor

# Values with more axes than these are taken in their own order alone.
_MOST = 3


def orders(elements: Tensor, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield, for each other order of a value's axes, the places of some of its elements in that order.

    Axes along which the elements do not differ stay where they are.
    """
    if not shape:
        return
    places = coordinates(elements, shape)
    wide = [axis for axis, one in enumerate(places) if bool((one != one[0]).any())]
    if len(wide) > _MOST:
        return
    for axes in permutations(wide):
        if axes != tuple(wide):
            key = torch.zeros_like(elements)
            for axis in axes:
                key = key * shape[axis] + places[axis]
            yield key.argsort()


def coordinates(elements: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the place of each element of a value along each of its axes, `axes elements`.

    As `torch.unravel_index` does, which imports torch's symbolic shapes for that, half a second.

    >>> coordinates(torch.tensor([0, 5]), (2, 3)).tolist()
    [[0, 1], [0, 2]]
    """
    found = []
    for extent in reversed(shape):
        found.append(elements % extent)
        elements = elements // extent
    return torch.stack(found[::-1]) if found else elements.new_zeros(0, len(elements))
