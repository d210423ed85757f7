"""Expressions as text, as far as what is printed says all of them: keys, slices of rows, joins, other orders and shapes.

>>> read("concat(q.weight, kv.weight[0:8])")
Concat(parts=(Source(key='q.weight'), Slice(of=Source(key='kv.weight'), start=0, stop=8)))
>>> read("layers.0.weight")
Source(key='layers.0.weight')
"""

import re
from collections.abc import Callable

from fxmap.errors import MappingError
from fxmap.expressions.arithmetic import Scaled, Sum
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Concat, Permute, Reshape, Slice, Transpose

_SIGNS = re.compile(r"[()\[\]]|\s[+*]\s")
_TOKENS = re.compile(r"\s*(\[-?\d+:-?\d+\]|\[[\d,\s]*\]|[(),]|[+*](?=\s)|[^\s(),\[\]]+)")
_ROWS = re.compile(r"\[(\d+):(\d+)\]")

_Made = Callable[[list[Expression], list[tuple[int, ...]]], Expression]


def _one(make: Callable[[Expression], Expression]) -> _Made:
    def made(parts: list[Expression], numbers: list[tuple[int, ...]]) -> Expression:
        (of,) = parts
        () = numbers
        return make(of)

    return made


def _sized(make: Callable[[Expression, tuple[int, ...]], Expression]) -> _Made:
    def made(parts: list[Expression], numbers: list[tuple[int, ...]]) -> Expression:
        (of,), (shape,) = parts, numbers
        return make(of, shape)

    return made


def _joined(parts: list[Expression], numbers: list[tuple[int, ...]]) -> Expression:
    () = numbers
    return Concat(tuple(parts))


_FUNCTIONS: dict[str, _Made] = {
    "concat": _joined,
    "transpose": _one(Transpose),
    "reshape": _sized(Reshape),
    "permute": _sized(Permute),
}


def read(text: str) -> Expression:
    """Read an expression from its text; a text without signs is a key.

    Raises:
        MappingError: it has signs of an expression, and does not say one in full.
    """
    if not _SIGNS.search(text):
        return Source(text)
    try:
        tokens = _tokens(text)
        made = _sum(tokens)
        if tokens:
            raise ValueError
    except (ValueError, IndexError, KeyError, RecursionError):
        raise MappingError(
            f"{text!r} is no key, and no expression that its text says in full. Text can be a key, rows of a tensor "
            "(qkv.weight[0:64]), concat(a, b), transpose(a), reshape(a, [2, 3]), permute(a, [1, 0]), a + b or a * 0.5; "
            "take others from a mapping or from its JSON. A key with such signs is fxmap.expressions.base.Source(key)"
        ) from None
    return made


def _tokens(text: str) -> list[str]:
    tokens, place = [], 0
    while place < len(text.rstrip()):
        found = _TOKENS.match(text, place)
        if found is None:
            raise ValueError
        tokens.append(found[1])
        place = found.end()
    return tokens[::-1]  # the next one is the last, which is cheap to take


def _sum(tokens: list[str]) -> Expression:
    parts = [_product(tokens)]
    while tokens and tokens[-1] == "+":
        tokens.pop()
        parts.append(_product(tokens))
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def _product(tokens: list[str]) -> Expression:
    of = _tensor(tokens)
    while tokens and tokens[-1] == "*":
        tokens.pop()
        of = Scaled(of, float(tokens.pop()))
    return of


def _tensor(tokens: list[str]) -> Expression:
    name = tokens.pop()
    if name in "(),+*" or name.startswith("["):
        raise ValueError
    of = _call(name, tokens) if tokens and tokens[-1] == "(" else Source(name)
    while tokens and (rows := _ROWS.fullmatch(tokens[-1])):
        tokens.pop()
        start, stop = int(rows[1]), int(rows[2])
        if start >= stop:
            raise ValueError
        of = Slice(of, start, stop)
    return of


def _call(name: str, tokens: list[str]) -> Expression:
    tokens.pop()
    parts: list[Expression] = []
    numbers: list[tuple[int, ...]] = []
    while True:
        if tokens[-1].startswith("["):
            numbers.append(tuple(int(number) for number in re.findall(r"\d+", tokens.pop())))
        else:
            parts.append(_sum(tokens))
        sign = tokens.pop()
        if sign == ")":
            return _FUNCTIONS[name](parts, numbers)
        if sign != ",":
            raise ValueError
