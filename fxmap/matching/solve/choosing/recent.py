"""Recent: what was found last is remembered, as long as it is not too large.

>>> recent = Recent[str, int](most=10)
>>> for name, size in ("a", 4), ("b", 5), ("c", 3), ("d", 11):
...     recent.put(name, size, size)
>>> [recent.get(name) for name in "abcd"]
[None, 5, 3, None]

Cost: constant for each of them.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class Recent(Generic[Key, Found]):
    """A table of at most so many numbers, from which what was put there first is removed first."""

    def __init__(self, most: int) -> None:
        self._most, self._size = most, 0
        self._table: dict[Key, tuple[Found, int]] = {}

    def get(self, key: Key) -> Found | None:
        """Return what was found under a key; None where it is not there, or no longer."""
        found = self._table.get(key)
        return None if found is None else found[0]

    def put(self, key: Key, found: Found, size: int) -> None:
        """Remember something that holds so many numbers."""
        if key in self._table:
            self._size -= self._table.pop(key)[1]
        if size > self._most:
            return
        while self._size + size > self._most:
            self._size -= self._table.pop(next(iter(self._table)))[1]
        self._table[key] = found, size
        self._size += size
