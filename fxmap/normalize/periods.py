"""Sums of values that are repeated, for a batch or for groups of heads, which no repetition changes."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def by_channel(channels: Tensor, values: Tensor) -> dict[int, Tensor]:
    """Part values by channel, each in their order."""
    order = channels.argsort(stable=True)
    counts = torch.bincount(channels).tolist()
    parts = torch.split(values[order], counts)
    return {channel: part for channel, part in enumerate(parts) if counts[channel]}


def weighted(values: Sequence[Tensor]) -> list[float]:
    """Sum each vector's values, later ones with more weight, whatever was repeated for a batch or for groups of heads.

    >>> weighted([torch.tensor([1.0, 2.0, 1.0, 2.0]), torch.tensor([1.0, 2.0])])
    [9.5, 4.75]
    """
    sums, alike = [0.0] * len(values), dict[int, list[int]]()
    for number, value in enumerate(values):
        alike.setdefault(len(value), []).append(number)
    for numbers in alike.values():
        rows = torch.stack([values[number] for number in numbers])
        for some, once in _one_period(rows, interleaved=False):
            for inner, period in _one_period(once, interleaved=True):
                weights = torch.arange(1, period.shape[1] + 1, dtype=period.dtype) / period.shape[1]
                found = period @ (weights + weights**2) * (rows.shape[1] / period.shape[1])
                for row, total in zip(some[inner].tolist(), found.tolist(), strict=True):
                    sums[numbers[row]] = total
    return sums


def _one_period(rows: Tensor, *, interleaved: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one period of every row, together those that are equally long: the numbers of the rows, and their periods.

    Rows are repeated as a whole, or value by value (`interleaved`).

    >>> list(_one_period(torch.tensor([[1.0, 2.0, 1.0, 2.0]]), interleaved=False))
    [(tensor([0]), tensor([[1., 2.]]))]
    >>> list(_one_period(torch.tensor([[1.0, 1.0, 2.0, 2.0]]), interleaved=True))
    [(tensor([0]), tensor([[1., 2.]]))]
    """
    left, size = torch.arange(len(rows)), rows.shape[1]
    for length in (length for length in range(1, size + 1) if size % length == 0):
        copies = rows[left].view(len(left), *((length, -1) if interleaved else (-1, length)))
        copies = copies.transpose(1, 2) if interleaved else copies
        same = torch.isclose(copies, copies[:, :1], rtol=1e-9, atol=1e-12).flatten(1).all(1)
        if bool(same.any()):
            yield left[same], copies[same, 0]
        left = left[~same]
        if not len(left):
            return
    if len(left):  # not a number is unlike itself
        yield left, rows[left]
