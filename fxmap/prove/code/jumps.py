"""Jumps: the places at which code of Python chooses, and what the choice depends on.

Each `if`, `and`, `or`, conditional expression and case of a `match` is a conditional jump in the code that Python runs, and
has two edges: on to the next instruction, or to another one. The names that a condition reads are those of the instructions
that compute it; a name depends on another one if a statement that stores it reads the other.

>>> def forward(self, x, options):
...     size = options["size"]
...     return -x if size == [640, 480] and self.flag else x
>>> jumps = jumps_of(forward.__code__)
>>> [sorted(jump.names) for jump in jumps], [sorted(jump.attributes) for jump in jumps]
([['size'], ['self']], [[], ['flag']])
>>> sorted(behind(forward.__code__, {"options"}))
['options', 'size']
>>> def looping(self, x):
...     if x is None:
...         x = 1
...     for i, layer in enumerate(self.layers):
...         x = layer(x)
...     return x
>>> sorted(behind(looping.__code__, {"x"}))
['x']

Cost: linear in the code.
"""

import linecache
from collections.abc import Iterator, Set
from dataclasses import dataclass
from dis import Instruction, get_instructions
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import Any

Range = tuple[tuple[int, int], tuple[int, int]]
# What a block does that only tells a user something.
_TELLING = {"warn", "warning", "warning_once", "warn_once", "info", "debug", "logger", "warnings", "print", "logging"}


@dataclass(frozen=True)
class Jump:
    """A conditional jump of code.

    Attributes:
        code: the code.
        offset: of the instruction.
        ways: the two next instructions: where the jump is not taken, and where it is.
        line: of the condition, and `text` its source.
        names, attributes: what the condition reads; `constants` are those that it names.
        asks_kind: whether it asks for the class of something.
        if_true: whether the jump is taken where the condition holds.
        first: the offset of the first instruction that computes the condition.
        asks_none: whether it asks if a local name is None, and no more.
        asks_part: whether it asks if something is None, or is a part of something.
    """

    code: CodeType
    offset: int
    ways: tuple[int, int]
    line: int
    text: str
    names: frozenset[str]
    attributes: frozenset[str]
    constants: tuple[Any, ...]
    asks_kind: bool
    if_true: bool
    first: int
    asks_none: bool
    asks_part: bool

    def computes(self, offset: int) -> bool:
        """Whether an instruction computes the condition."""
        return self.first <= offset <= self.offset

    def outcome(self, way: int) -> bool:
        """Return what the condition is where code goes on at one of the two ways."""
        return (way == self.ways[1]) is self.if_true

    def __hash__(self) -> int:
        return hash((id(self.code), self.offset))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Jump) and other.code is self.code and other.offset == self.offset

    def __str__(self) -> str:
        return f"{Path(self.code.co_filename).name}:{self.line}, {self.code.co_qualname}" + (
            f" ({self.text})" if self.text else ""
        )


@lru_cache(maxsize=4096)
def _steps(code: "_ById") -> list[Instruction]:
    return list(get_instructions(code.code))


@dataclass(frozen=True)
class _ById:
    """Code, compared by identity: two lambdas of one line may be equal."""

    code: CodeType

    def __hash__(self) -> int:
        return id(self.code)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.code is self.code


def jumps_of(code: CodeType) -> list[Jump]:
    """Return the conditional jumps of code, but for those of loops and those whose other side only raises or warns."""
    return list(_jumps(_ById(code)))


@lru_cache(maxsize=4096)
def _jumps(code: _ById) -> tuple[Jump, ...]:
    steps = _steps(code)
    found = []
    for place, step in enumerate(steps):
        if is_conditional(step) and "BACKWARD" not in step.opname and place and place + 1 < len(steps):
            found.append(_jump(code.code, steps, place))
    return tuple(found)


def is_conditional(step: Instruction) -> bool:
    """Whether an instruction goes on at one of two places, by a value."""
    return "JUMP" in step.opname and "_IF_" in step.opname


def _jump(code: CodeType, steps: list[Instruction], place: int) -> Jump:
    step, where = steps[place], _range(steps[place - 1])
    inside = _computing(steps, place, where)
    names = frozenset(s.argval for s in inside if s.opname.startswith("LOAD_") and s.opname in _NAMES)
    attributes = frozenset(s.argval for s in inside if s.opname in ("LOAD_ATTR", "LOAD_METHOD"))
    globals_ = {s.argval for s in inside if s.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    if not any(s.opname.startswith("LOAD_") and s.opname != "LOAD_CONST" for s in inside):
        # A case of a match: what it is about was read before.
        names = frozenset(s.argval for s in steps[:place] if s.opname in _NAMES)
    constants = tuple(s.argval for s in inside if s.opname in ("LOAD_CONST", "RETURN_CONST") and s.argval is not None)
    return Jump(
        code, step.offset, (steps[place + 1].offset, step.argval), where[0][0], _source(code, where, step.opname), names,
        attributes, constants, bool(globals_ & {"isinstance", "hasattr", "callable", "issubclass"}),
        not step.opname.endswith(("FALSE", "FALSE_OR_POP", "NOT_NONE")),
        inside[0].offset if inside else step.offset,
        (none := asks_none(step, inside)) and all(s.opname in (*_NAMES, "LOAD_CONST", "IS_OP") for s in inside),
        none or any(s.opname == "CONTAINS_OP" for s in inside),
    )  # fmt: skip


def asks_none(step: Instruction, inside: list[Instruction]) -> bool:
    """Whether a jump asks if a value is None, by what the instructions before it compute."""
    asked = [s.argval is None for s in inside if s.opname == "LOAD_CONST"]
    return step.opname.endswith("NONE") or (any(s.opname == "IS_OP" for s in inside) and asked == [True])


_NAMES = ("LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW")


def _range(step: Instruction) -> Range:
    where = step.positions
    if where is None or where.lineno is None:
        return (0, 0), (10**9, 0)
    return (where.lineno, where.col_offset or 0), (where.end_lineno or where.lineno, where.end_col_offset or 0)


def _computing(steps: list[Instruction], place: int, where: Range) -> list[Instruction]:
    """Return the instructions before a jump that compute its condition: those of its place in the source."""
    found = []
    for step in reversed(steps[:place]):
        start, end = _range(step)
        if not (where[0] <= start and end <= where[1]):
            break
        found.append(step)
        if step.opname.startswith("STORE_"):
            break
    return found[::-1]


def _source(code: CodeType, where: Range, name: str) -> str:
    (line, start), (last, end) = where
    text = linecache.getline(code.co_filename, line)
    encoded = text.encode()
    part = (encoded[start:end] if last == line else encoded[start:]).decode(errors="replace").strip()
    return f"{part} is None" if name.endswith("NONE") and part else part


def behind(code: CodeType, names: Set[str]) -> set[str]:
    """Return the local names of code whose values may depend on some of them, these included."""
    return set(_behind(_ById(code), frozenset(names)))


@lru_cache(maxsize=4096)
def _behind(of: _ById, names: frozenset[str]) -> frozenset[str]:
    code = of.code
    found, steps = set(names), _steps(_ById(code))
    while True:
        before = len(found)
        depends = False
        for place, step in enumerate(steps):
            if step.opname in _NAMES:
                depends |= step.argval in found
            elif step.opname in ("STORE_FAST", "STORE_DEREF") and depends:
                found.add(step.argval)
            following = steps[place + 1].opname if place + 1 < len(steps) else ""
            if (_ends(step.opname) and not following.startswith("STORE_")) or _leads_on(steps, place):
                depends = False
        if len(found) == before:
            return frozenset(found)


def read_in_call(code: CodeType, offset: int) -> tuple[set[str], list[Any]]:
    """Return the local names and the constants that stand in the call at an instruction."""
    return _read_in_call(_ById(code), offset)


@lru_cache(maxsize=4096)
def _read_in_call(code: _ById, offset: int) -> tuple[set[str], list[Any]]:
    steps = _steps(code)
    call = next((step for step in steps if step.offset == offset), steps[0])
    start, end = _range(call)
    inside = [step for step in steps if start <= _range(step)[0] and _range(step)[1] <= end]
    constants = [step.argval for step in inside if step.opname == "LOAD_CONST"]
    return {step.argval for step in inside if step.opname in _NAMES}, constants


def _leads_on(steps: list[Instruction], place: int) -> bool:
    """Whether an instruction is the jump of an `if`, behind which another statement begins: on another line."""
    step = steps[place]
    if not step.opname.startswith("POP_JUMP") or place + 1 == len(steps):
        return False
    return _range(steps[place + 1])[0][0] > _range(step)[1][0]


def _ends(name: str) -> bool:
    return name.startswith("STORE_") or name in ("POP_TOP", "RETURN_VALUE", "RAISE_VARARGS")


def written(code: CodeType) -> Iterator[str]:
    """Yield the names of the attributes that code sets, or of which it sets an item.

    >>> def forward(self, x):
    ...     self.calls += 1
    ...     found = []
    ...     if x in self.wanted:
    ...         found.append(x)
    ...     return self.cache.setdefault(x, found)
    >>> sorted(written(forward.__code__))
    ['cache', 'calls']
    """
    read: list[str] = []
    steps = _steps(_ById(code))
    for place, step in enumerate(steps):
        if step.opname == "STORE_ATTR":
            yield step.argval
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            if step.argval in _CHANGING and place and steps[place - 1].opname == "LOAD_ATTR":
                yield steps[place - 1].argval
            read.append(step.argval)
        elif step.opname == "STORE_SUBSCR":
            yield from read[-2:]
        elif step.opname == "LOAD_GLOBAL" and step.argval == "setattr":
            yield from (value for value in code.co_consts if isinstance(value, str))
        if _ends(step.opname) or _leads_on(steps, place):
            read = []


_CHANGING = {"setdefault", "append", "update", "add", "pop", "extend", "insert", "clear", "popitem"}


def is_told(jump: Jump, way: int) -> bool:
    """Whether a side of a jump does no more than raise an exception, or tell the user something."""
    steps = _steps(_ById(jump.code))
    start = next((i for i, step in enumerate(steps) if step.offset == way), len(steps))
    other = jump.ways[1 - jump.ways.index(way)]
    names = set[str]()
    for step in steps[start:]:
        if step.opname in ("RAISE_VARARGS", "LOAD_ASSERTION_ERROR"):
            return True
        if step.offset != way and step.offset == other:
            return bool(names & _TELLING)
        if is_conditional(step) or step.opname.startswith(("STORE_", "RETURN", "FOR_ITER", "YIELD", "JUMP_BACKWARD")):
            return False
        if step.opname in ("LOAD_GLOBAL", "LOAD_ATTR", "LOAD_METHOD"):
            names.add(step.argval)
    return False
