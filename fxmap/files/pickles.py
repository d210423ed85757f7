"""Pickles: a look at what a pickle builds, before it is built.

torch unpickles state dicts without running code of the file, but Python itself can be kept busy: the hash of a key that is a
tuple of tuples visits them along every way, so that thirty nested pairs take minutes, and a million nested tuples overflow
the stack. Idea: run the pickle on sizes instead of values. A tuple has the sizes of its parts and one more, whatever is
remembered (memo) has the size that it had; dicts and lists, which are no keys, count as one.

Cost: linear in the length of the pickle; about as much as torch's own unpickler takes.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from fxmap.files.limits import Limits

# Integers of more bits have hashes that can be made equal, which makes a dict of them take quadratic time.
_WIDE, _MANY_WIDE = 64, 10_000


class TooMuch(ValueError):
    """A pickle whose tuples are nested more than the limits allow."""


class _Size(NamedTuple):
    """How many tuples are met along every way through a value, and how deep the deepest lies."""

    count: int = 1  # type: ignore[assignment]  # which hides the method of tuples
    depth: int = 0


_PLAIN = _Size()
_MARK = _Size(0)

# Of the other instructions: how many values they take, and the sizes of those that they leave.
_EFFECTS = {code.name: (len(code.stack_before), (_PLAIN,) * len(code.stack_after)) for code in pickletools.opcodes}
_LONG = frozenset(("INT", "LONG", "LONG1", "LONG4"))


@dataclass(slots=True)
class _Sizes:
    """A pickle machine whose values are sizes."""

    limits: Limits
    stack: list[_Size] = field(default_factory=list)
    memo: dict[int, _Size] = field(default_factory=dict)
    wide: int = 0

    def step(self, name: str, argument: Any) -> None:
        """Run one instruction."""
        special = _SPECIAL.get(name)
        if special is not None:
            special(self, argument)
            return
        if name in _LONG and argument.bit_length() > _WIDE:
            self.wide += 1
            if self.wide > _MANY_WIDE:
                raise TooMuch(f"more than {_MANY_WIDE:,} integers of more than {_WIDE} bits")
        taken, made = _EFFECTS[name]
        if taken:
            del self.stack[-taken:]
        self.stack.extend(made)

    def push(self, value: _Size) -> int:
        """Push a value; returns how many there are."""
        self.stack.append(value)
        return len(self.stack)

    def join(self, parts: list[_Size]) -> None:
        """Push the size of a tuple."""
        count, depth = 1, 0
        for part in parts:
            count += part.count
            depth = max(depth, part.depth)
        made = _Size(count, depth + 1)
        if made.depth > self.limits.depth:
            raise TooMuch(f"tuples are nested deeper than {self.limits.depth}")
        if made.count > self.limits.entries:
            raise TooMuch(f"a tuple of more than {self.limits.entries:,} parts, counted along every way to them")
        self.push(made)

    def join_last(self, count: int) -> None:
        """Replace the last values by the tuple of them."""
        parts = [self.stack.pop() for _ in range(count)]
        self.join(parts)

    def since_mark(self) -> list[_Size]:
        """Pop and return the values behind the last mark."""
        parts: list[_Size] = []
        while (part := self.stack.pop()) is not _MARK:
            parts.append(part)
        return parts

    def remember(self, index: int | None) -> None:
        """Remember the last value, by its number, or by the next."""
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]


_Step = Callable[[_Sizes, Any], Any]

_SPECIAL: dict[str, _Step] = {
    "MARK": lambda sizes, _: sizes.push(_MARK),
    "TUPLE": lambda sizes, _: sizes.join(sizes.since_mark()),
    "TUPLE1": lambda sizes, _: sizes.join_last(1),
    "TUPLE2": lambda sizes, _: sizes.join_last(2),
    "TUPLE3": lambda sizes, _: sizes.join_last(3),
    "REDUCE": lambda sizes, _: sizes.join_last(2),
    "NEWOBJ": lambda sizes, _: sizes.join_last(2),
    "BUILD": lambda sizes, _: sizes.stack.pop(),
    **dict.fromkeys(("LIST", "DICT"), lambda sizes, _: (sizes.since_mark(), sizes.push(_PLAIN))),
    "FROZENSET": lambda sizes, _: sizes.join(sizes.since_mark()),
    **dict.fromkeys(("SETITEMS", "APPENDS", "ADDITEMS", "POP_MARK"), lambda sizes, _: sizes.since_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"), lambda sizes, index: sizes.remember(index)),
    **dict.fromkeys(("BINGET", "LONG_BINGET", "GET"), lambda sizes, index: sizes.push(sizes.memo[index])),
}


def check_pickle(stream: IO[bytes], limits: Limits) -> bool:
    """Check the pickle that begins where a stream stands, and leave the stream behind it.

    Returns:
        Whether there was a whole pickle; what is broken is left to the reader, which says so.

    Raises:
        TooMuch: it builds tuples that are nested deeper, or met more often, than the limits allow.

    >>> import io, pickle
    >>> pair = ()
    >>> for _ in range(30):
    ...     pair = (pair, pair)
    >>> check_pickle(io.BytesIO(pickle.dumps(pair, protocol=2)), Limits())
    Traceback (most recent call last):
    ...
    fxmap.files.pickles.TooMuch: a tuple of more than 5,000,000 parts, counted along every way to them
    """
    sizes = _Sizes(limits)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return True
            sizes.step(opcode.name, argument)
    except TooMuch:
        raise
    except (ValueError, LookupError, EOFError, OverflowError, MemoryError):
        return False
    return False
