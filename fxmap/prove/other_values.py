"""Other values of what a model is given that is no tensor: numbers, switches, words, several of them, functions.

>>> other_values(1.0, ()), other_values([3, 3], ())[:3]
([3.0, 0.5, 0.0, 107.0, -1.0], [[4, 2], [3, 2, 1], [6]])

Cost: none; each is one run of both models, on small inputs.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

# How many words that code looks up are tried, and of several values how many others.
_WORDS, _LISTS = 6, 14


def other_values(value: Any, words: Sequence[str]) -> list[Any]:
    """Return other values of the kind of one that is no tensor."""
    if type(value) is bool:
        return [not value]
    if isinstance(value, str):
        return [other for other in (*words[:_WORDS], "?") if other != value]
    if type(value) in (tuple, list, set, frozenset):
        held = sorted(value, key=str) if isinstance(value, set | frozenset) else list(value)
        found = [type(value)(parts) for parts in _lists(held, words)]
        return [other for i, other in enumerate(found) if other != value and other not in found[:i]][:_LISTS]
    if callable(value):
        return [function for function in (torch.sin, torch.relu) if function is not value]
    whole, real = (value + 1, 0, 1, 2, value + 7), (2 * value + 1, value / 2, 0.0, 100 * value + 7, -value)
    return [other for other in dict.fromkeys(whole if type(value) is int else real) if other != value]


def _lists(parts: list[Any], words: Sequence[str]) -> Iterator[list[Any]]:
    """Yield others in the place of several values: changed, more, fewer, in another order, of the same sum or product."""
    first, *rest = parts
    if all(type(part) is int for part in parts):
        yield from _of_one_sum(parts)
        yield from _of_one_product(parts)
    if isinstance(first, str):
        yield from ([*parts, word] for word in words[:_WORDS] if word not in parts)
    elif type(first) in (list, tuple):
        # Rows of one kind, as sizes of images: the first alone, and all of them.
        for other in other_values(first, words):
            yield [other for _ in parts]
            yield [other, *rest]
    elif type(first) in (bool, int, float):
        yield from ([_next(part) if i == place else part for i, part in enumerate(parts)] for place in range(len(parts)))
        yield [*parts, _next(parts[-1])]
    yield parts[::-1]
    yield parts[:-1]


def _next(value: Any) -> Any:
    return not value if type(value) is bool else value + 1


def _of_one_sum(parts: list[int]) -> Iterator[list[int]]:
    """Yield whole numbers of the same sum, as lengths into which a sequence is split.

    >>> list(_of_one_sum([3, 3]))
    [[4, 2], [3, 2, 1], [6]]
    """
    if len(parts) > 1 and parts[-1] > 1:
        yield [parts[0] + 1, *parts[1:-1], parts[-1] - 1]
    if parts[-1] > 1:
        yield [*parts[:-1], parts[-1] - 1, 1]
    if len(parts) > 1:
        yield [*parts[:-2], parts[-2] + parts[-1]]


def _of_one_product(parts: list[int]) -> Iterator[list[int]]:
    """Yield as many whole numbers of the same product, as the edges of a map whose positions a sequence has.

    >>> list(_of_one_product([1, 6, 1]))
    [[2, 3, 1], [1, 3, 2], [6, 1, 1], [1, 1, 6]]
    """
    for i, part in enumerate(parts):
        factor = next((f for f in (2, 3, 5, 7) if part > f and part % f == 0), 0)
        for j in range(len(parts)) if factor else ():
            if i != j:
                yield [other // factor if k == i else other * factor if k == j else other for k, other in enumerate(parts)]
    yield from (parts[i:] + parts[:i] for i in range(1, len(parts)) if len(set(parts)) > 1)
