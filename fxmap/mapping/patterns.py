"""Patterns: the expressions of a mapping, generalised over the numbers in keys, so that 80 layers are one line.

Idea: keys that differ in numbers alone, and whose expressions do so as well, are one group. Inside a group every number of
the expression (in a source key, or a bound of a slice) must be an affine function of the numbers of the destination key. A
group where that does not hold, or whose numbers are no product of ranges, is split along its first number that varies.

>>> from fxmap.expressions.base import Source
>>> from fxmap.expressions.layout import Slice
>>> made = {f"model.layers.{i}.q_proj.weight": Slice(Source(f"layers.{i}.qkv.weight"), 0, 64) for i in range(80)}
>>> for pattern in patterns(made | {"model.norm.weight": Source("norm.weight")}):
...     print(pattern)
layers.{i}.qkv.weight[0:64] -> model.layers.{i}.q_proj.weight, i = 0..79
norm.weight -> model.norm.weight

Cost: linear in the number of keys where groups need no splitting, else at most quadratic in the number of layers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product

from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Slice

# Any two points lie on a line: layers 0 and 1 made of 7 and 3 are no rule, those made of 3 and 4 are one.
_TELLING = 3

# Stands for a bound of a slice that is printed as a formula; larger than any axis.
_SENTINEL = 10**15


@dataclass(frozen=True, slots=True)
class Index:
    """A number in the keys of a pattern: its name, as in `{i}`, and its values in ascending order."""

    name: str
    values: tuple[int, ...]

    def __str__(self) -> str:
        first, last = self.values[0], self.values[-1]
        if len(self.values) > 2 and self.values == tuple(range(first, last + 1)):
            return f"{self.name} = {first}..{last}"
        return f"{self.name} = {', '.join(map(str, self.values))}"


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line for all keys that are made in the same way.

    Attributes:
        destination: the destination keys, with `{i}` for a number that varies.
        source: their expressions, printed; a number that depends on the destination's is a formula, as in `{i+1}`.
        indices: the numbers that vary; the keys are all their combinations. Empty for a key by itself.
        keys: the destination keys, in the order of the mapping.
        expression: the expression over source keys with `{i}` in them; None where bounds of slices are formulas.
    """

    destination: str
    source: str
    indices: tuple[Index, ...]
    keys: tuple[str, ...]
    expression: Expression | None

    def __str__(self) -> str:
        where = "; ".join(map(str, self.indices))
        return f"{self.source} -> {self.destination}" + (f", {where}" if where else "")


def patterns(expressions: Mapping[str, Expression]) -> tuple[Pattern, ...]:
    """Return the patterns of a mapping, in the order of their first keys; every key is in exactly one.

    >>> found = patterns({f"b.{i}.w": Source(f"a.{i + 1}.w") for i in range(3)} | {"b.3.w": Source("a.0.w")})
    >>> [str(pattern) for pattern in found]
    ['a.{i+1}.w -> b.{i}.w, i = 0..2', 'a.0.w -> b.3.w']
    """
    order = {key: place for place, key in enumerate(expressions)}
    groups: dict[tuple[str, Expression], list[_Member]] = {}
    for key, expression in expressions.items():
        member = _Member(key, expression, numbers_in(key), tuple(_numbers(expression)))
        groups.setdefault((_masked(key), _with_numbers(expression, _zeros())), []).append(member)
    found = [pattern for group in groups.values() for pattern in _generalised(group)]
    return tuple(sorted(found, key=lambda pattern: order[pattern.keys[0]]))


@dataclass(frozen=True, slots=True)
class _Member:
    """A key and its expression, with the numbers in both, from left to right."""

    key: str
    expression: Expression
    place: tuple[int, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Affine:
    """The number `factor * place[axis] + offset`; constant where the factor is 0."""

    axis: int = 0
    factor: int = 0
    offset: int = 0

    def at(self, place: Sequence[int]) -> int:
        return self.factor * place[self.axis] + self.offset if self.factor else self.offset

    def text(self, names: Mapping[int, str]) -> str:
        if not self.factor:
            return str(self.offset)
        name = names[self.axis] if self.factor == 1 else f"{self.factor}*{names[self.axis]}"
        return f"{{{name}{self.offset:+d}}}" if self.offset else f"{{{name}}}"


def _generalised(group: Sequence[_Member]) -> Iterator[Pattern]:
    """Yield the patterns of a group: one where a rule holds for all of it, else those of its largest runs."""
    rule = _rule(group)
    if rule is not None:
        yield _pattern(group, rule)
        return
    axis = min(_varying(group))
    by_value: dict[int, list[_Member]] = {}
    for member in sorted(group, key=lambda member: member.place[axis]):
        by_value.setdefault(member.place[axis], []).append(member)
    run: list[_Member] = []
    for members in by_value.values():
        if run and _rule([*run, *members]) is None:
            yield from _generalised(run)
            run = []
        run += members
        if _rule(run) is None:
            yield from _generalised(run)
            run = []
    if run:
        yield from _generalised(run)


def _rule(group: Sequence[_Member]) -> list[_Affine] | None:
    """Return how the numbers of all expressions follow from those of their keys; None where there is no such rule."""
    varying = _varying(group)
    values = [sorted({member.place[axis] for member in group}) for axis in varying]
    places = {tuple(member.place[axis] for axis in varying) for member in group}
    if len(places) != len(group) or places != set(product(*values)):
        return None
    rule = []
    keys = _key_numbers(group[0].expression)
    for which, in_key in enumerate(keys):
        found = _affine(group, which, varying, in_key)
        if found is None:
            return None
        rule.append(found)
    return rule


def _affine(group: Sequence[_Member], which: int, varying: Iterable[int], in_key: bool) -> _Affine | None:
    numbers = [member.numbers[which] for member in group]
    if len(set(numbers)) == 1:
        return _Affine(offset=numbers[0])
    lines = []
    for axis in varying:
        first = group[0]
        other = next(member for member in group if member.place[axis] != first.place[axis])
        factor = (other.numbers[which] - first.numbers[which]) // (other.place[axis] - first.place[axis])
        line = _Affine(axis, factor, first.numbers[which] - factor * first.place[axis])
        if factor and all(line.at(member.place) == member.numbers[which] for member in group):
            lines.append(line)
    lines.sort(key=lambda line: line.factor != 1)
    if not lines or (in_key and lines[0].factor != 1 and len(set(numbers)) < _TELLING):
        return None
    return lines[0]


def _varying(group: Sequence[_Member]) -> list[int]:
    first = group[0].place
    return [axis for axis in range(len(first)) if any(member.place[axis] != first[axis] for member in group)]


def _pattern(group: Sequence[_Member], rule: Sequence[_Affine]) -> Pattern:
    first, varying = group[0], _varying(group)
    names = dict(zip(varying, _names(), strict=False))
    indices = tuple(Index(names[axis], tuple(sorted({member.place[axis] for member in group}))) for axis in varying)
    place = [f"{{{names[axis]}}}" if axis in names else str(number) for axis, number in enumerate(first.place)]
    texts = [line.text(names) for line in rule]
    printed, formulas = _printed(first.expression, rule, texts)
    constant = not any(line.factor and not in_key for line, in_key in zip(rule, _key_numbers(first.expression), strict=True))
    general = _with_numbers(first.expression, iter(texts)) if constant else None
    for sentinel, text in formulas.items():
        printed = printed.replace(str(sentinel), text)
    return Pattern(_filled(first.key, iter(place)), printed, indices, tuple(member.key for member in group), general)


def _printed(expression: Expression, rule: Sequence[_Affine], texts: Sequence[str]) -> tuple[str, dict[int, str]]:
    """Print an expression with sentinels for the bounds that are formulas, and return what these stand for."""
    formulas: dict[int, str] = {}
    written = []
    for which, (line, text, in_key) in enumerate(zip(rule, texts, _key_numbers(expression), strict=True)):
        is_formula = bool(line.factor) and not in_key
        if is_formula:
            formulas[_SENTINEL + which] = text
        written.append(str(_SENTINEL + which) if is_formula else text)
    return str(_with_numbers(expression, iter(written))), formulas


def _names() -> Iterator[str]:
    yield from "ijklm"
    yield from (f"i{number}" for number in count(1))


def _zeros() -> Iterator[str]:
    while True:
        yield "0"


def numbers_in(key: str) -> tuple[int, ...]:
    """Return the numbers among the parts of a key, such as those of layers."""
    return tuple(int(part) for part in key.split(".") if part.isdecimal())


def _masked(key: str) -> str:
    return _filled(key, _zeros())


def _filled(key: str, numbers: Iterator[str]) -> str:
    """Return a key with other numbers, from left to right."""
    return ".".join(next(numbers) if part.isdecimal() else part for part in key.split("."))


def _numbers(expression: Expression) -> Iterator[int]:
    """Yield the numbers of an expression that may vary: those in source keys, and the bounds of slices."""
    if isinstance(expression, Source):
        yield from numbers_in(expression.key)
    for operand in expression.operands():
        yield from _numbers(operand)
    if isinstance(expression, Slice):
        yield from (expression.start, expression.stop)


def _key_numbers(expression: Expression) -> list[bool]:
    """Tell, of every number that `_numbers` yields, whether it stands in a key."""
    if isinstance(expression, Source):
        return [True] * len(numbers_in(expression.key))
    inner = [flag for operand in expression.operands() for flag in _key_numbers(operand)]
    return [*inner, False, False] if isinstance(expression, Slice) else inner


def _with_numbers(expression: Expression, numbers: Iterator[str]) -> Expression:
    """Return an expression with other numbers, in the order of `_numbers`."""
    if isinstance(expression, Source):
        return Source(_filled(expression.key, numbers))
    if isinstance(expression, Slice):
        inner = _with_numbers(expression.of, numbers)
        return Slice(inner, int(next(numbers)), int(next(numbers)))
    return expression.rebuilt(lambda part: _with_numbers(part, numbers))
