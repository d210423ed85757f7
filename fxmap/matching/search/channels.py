"""Find the order of channels by comparing their values."""

import torch
from torch import Tensor

from fxmap.matching.search.fingerprint import SAME


def order_of_channels(src: Tensor, dst: Tensor) -> tuple[int, ...] | None:
    """Return, for each channel of `dst`, the equal channel of `src`; None if the channels differ, or are in the same order.

    Both values are `c n`. Equal channels (dead ones) are told apart by their neighbours: the channels of joined values keep
    their order.

    >>> order_of_channels(torch.tensor([[1.0], [2.0], [0.0]]), torch.tensor([[0.0], [1.0], [2.0]]))
    (2, 0, 1)
    """
    if src.shape != dst.shape:
        return None
    scale = float(src.abs().max()) * SAME
    weights = torch.linspace(1.0, 2.0, src.shape[1], dtype=src.dtype).cos()
    places = [(value @ weights).argsort(stable=True) for value in (src, dst)]
    if not bool(((src[places[0]] - dst[places[1]]).abs() <= scale).all()):
        return None
    order = torch.empty_like(places[0])
    order[places[1]] = places[0]
    found = order.tolist()
    sizes = (src[places[0]][1:] - src[places[0]][:-1]).abs().amax(1) <= scale
    if bool(sizes.any()):
        tied = {int(places[0][i + step]) for i in sizes.nonzero().flatten().tolist() for step in (0, 1)}
        found = _by_neighbours(found, tied)
    return tuple(found) if found != list(range(len(found))) else None


def _by_neighbours(order: list[int], tied: set[int]) -> list[int]:
    """Put channels that are equal to others next to their neighbours in the source."""
    result = [-1 if channel in tied else channel for channel in order]
    free = set(tied)
    for places, step in ((range(1, len(order)), 1), (range(len(order) - 2, -1, -1), -1)):
        for place in places:
            wanted = result[place - step] + step
            if result[place] < 0 and result[place - step] >= 0 and wanted in free:
                result[place] = wanted
                free.remove(wanted)
    rest = iter(sorted(free))
    return [next(rest) if channel < 0 else channel for channel in result]
