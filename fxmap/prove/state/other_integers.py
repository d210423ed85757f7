"""Other values of integers and switches of a state: of one tensor as a whole, of one number of it, of several tensors apart.

A permutation may be any other, an index any within its range, a switch the other way: what code makes of these is told from
what other code makes of them only where they differ. Two permutations that are one after the other applied are told from the
same in the other order only where neither is the identity; three switches, where each way of them is met. So the numbers of
a tensor change together, and one by one where they are few, and several tensors change apart from each other.

>>> [value.tolist() for value in integers_like(torch.tensor([True, False]))]
[[False, True], [False, False], [True, True]]
>>> [value.tolist() for value in integers_like(torch.tensor([0, 8]))][:4]
[[8, 0], [1, 8], [0, 7], [1, 9]]

Cost: none; each is one run of both models.
Source: combinatorial testing, Kuhn, Kacker and Lei, Introduction to Combinatorial Testing, 2013.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from zlib import crc32

import torch
from torch import Tensor

from fxmap.prove.state.changed import disturbed

# How many of the numbers that code names are tried, and others: beyond the end of a queue, of a warm-up, of a schedule.
_NAMED, _NUMBERS = 12, (10**6, 0, 7, 100, 10**4)
# Of so few numbers each is changed by itself, and of so few switches every combination is tried.
_FEW, _FEW_SWITCHES = 8, 5
# Of the numbers that code names, so many are given to each single number of a tensor.
_NAMED_EACH = 6
# How many draws within the range of the numbers.
_DRAWS = 4


def integers_like(tensor: Tensor, numbers: Sequence[float] = ()) -> list[Tensor]:
    """Return other values that an integer or boolean tensor may have; `numbers` are those that code names.

    The most telling ones come first. None is below 0 where the tensor has no number below 0, which may be a place that is
    counted from the end.
    """
    switches = tensor.dtype is torch.bool
    found = _switches(tensor) if switches else _several(tensor, numbers) if tensor.numel() > 1 else _single(tensor, numbers)
    least = None if switches or not tensor.numel() else min(0, int(tensor.min()))
    distinct: list[Tensor] = []
    for value in (value.reshape(tensor.shape) for value in found):
        below = least is not None and bool((value < least).any())
        if not below and not any(torch.equal(value, other) for other in (tensor, *distinct)):
            distinct.append(value)
    return distinct


def apart(tensors: Mapping[str, Tensor], numbers: Sequence[float], draws: int) -> Iterator[dict[str, Tensor]]:
    """Yield other values of several tensors, by name, each by itself; but for the first draw, a third of them stay.

    >>> order = torch.arange(3)
    >>> {name: value.tolist() for name, value in next(apart({"a": order, "b": order}, (), 1)).items()}
    {'a': [1, 0, 2], 'b': [0, 2, 1]}
    """
    lists = {name: integers_like(tensor, numbers) for name, tensor in tensors.items()}
    for seed in range(draws):
        drawn = {}
        for name, tensor in tensors.items():
            generator = torch.Generator().manual_seed(crc32(name.encode()) + seed)
            kept, place = (int(number) for number in torch.randint(0, 2**31, (2,), generator=generator))
            if seed and kept % 3 == 0:
                continue
            if tensor.numel() > 1 and tensor.dtype is not torch.bool:
                drawn[name] = disturbed(tensor, seed=crc32(name.encode()) + seed)
            elif lists[name]:
                drawn[name] = lists[name][place % len(lists[name])]
        if drawn:
            yield drawn


def _switches(tensor: Tensor) -> Iterator[Tensor]:
    every_other = (torch.arange(tensor.numel()) % 2 == 0).reshape(tensor.shape)
    yield from (~tensor, tensor ^ every_other, torch.ones_like(tensor), torch.zeros_like(tensor))
    if tensor.numel() <= _FEW_SWITCHES:
        yield from (torch.tensor(ways, dtype=torch.bool) for ways in product((False, True), repeat=tensor.numel()))
        return
    for place in range(min(tensor.numel(), _FEW)):
        turned = tensor.clone().flatten()
        turned[place] = ~turned[place]
        yield turned
    generator = torch.Generator().manual_seed(3)
    yield from (torch.rand(tensor.shape, generator=generator) > 0.5 for _ in range(2 * _DRAWS))


def _single(tensor: Tensor, numbers: Sequence[float]) -> list[Tensor]:
    named = _whole(numbers, tensor)[:_NAMED]
    wanted = [int(tensor) + 1, *_NUMBERS, int(tensor) + 2, int(tensor) - 1, *(n + by for n in named for by in (0, 1))]
    return [torch.full_like(tensor, number) for number in wanted if _fits(number, tensor)]


def _several(tensor: Tensor, numbers: Sequence[float]) -> Iterator[Tensor]:
    first, last = tensor.clone().flatten(), tensor.clone().flatten()
    first[0] += 1
    last[-1] -= 1
    yield from (tensor.flatten().flip(0), disturbed(tensor), tensor.flatten().roll(1), first, last, tensor + 1, tensor - 1)
    generator = torch.Generator().manual_seed(5)
    low, high = int(tensor.min()), int(tensor.max())
    yield from (disturbed(tensor, seed=seed) for seed in range(_DRAWS))
    yield from (torch.randint(low, high + 1, tensor.shape, generator=generator).to(tensor.dtype) for _ in range(_DRAWS))
    if tensor.numel() <= _FEW:
        yield from _one_by_one(tensor, _whole(numbers, tensor)[:_NAMED_EACH])


def _one_by_one(tensor: Tensor, named: Sequence[int]) -> Iterator[Tensor]:
    """Yield a tensor in which one number is another: one more or less, one that code names, and others."""
    for number in (None, *(n + by for n in named for by in (1, 0)), 0, 100, 10**4):
        for place in range(tensor.numel()):
            for by in (1, -1) if number is None else (0,):
                changed = tensor.clone().flatten()
                changed[place] = changed[place] + by if number is None else number
                yield changed


def _whole(numbers: Sequence[float], tensor: Tensor) -> list[int]:
    return [int(number) for number in numbers if float(number).is_integer() and _fits(number + 1, tensor)]


def _fits(number: float, tensor: Tensor) -> bool:
    return torch.iinfo(tensor.dtype).min <= number <= torch.iinfo(tensor.dtype).max
