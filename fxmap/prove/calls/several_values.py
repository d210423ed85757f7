"""Several values: other lists of numbers and words, in the place of one that is given.

>>> def next_one(value, words):
...     return [value + 1]
>>> [parts for parts in lists_like([3, 3], (), next_one)][:3]
[[4, 2], [3, 2, 1], [6]]

Cost: none.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

# How many words that code looks up are tried.
_WORDS = 6
Others = Callable[[Any, Sequence[str]], list[Any]]


def lists_like(parts: list[Any], words: Sequence[str], others: Others) -> Iterator[list[Any]]:
    """Yield others in the place of several values: changed, more, fewer, in another order, of the same sum or product.

    Args:
        parts: the values; at least one.
        words: what code compares with.
        others: returns other values of one of them.
    """
    first, *rest = parts
    if all(type(part) is int for part in parts):
        yield from _of_one_sum(parts)
        yield from _of_one_product(parts)
    if isinstance(first, str):
        yield from ([*parts, word] for word in words[:_WORDS] if word not in parts)
    elif type(first) in (list, tuple):
        # Rows of one kind, as sizes of images: the first alone, and all of them.
        for other in others(first, words):
            yield [other for _ in parts]
            yield [other, *rest]
    elif type(first) in (bool, int, float):
        yield from ([_next(part) if i == place else part for i, part in enumerate(parts)] for place in range(len(parts)))
        yield [*parts, _next(parts[-1])]
        if type(first) is not bool:
            # Falling, which code that sorts them, or takes the largest for the last one, makes another order of.
            yield [*parts, parts[-1] - 1]
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
