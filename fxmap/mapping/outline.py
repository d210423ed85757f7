"""Outline: a mapping on a screen: layers generalised, tensors of one module together, equal modules on one line.

>>> from fxmap.expressions.layout import Transpose
>>> made = {f"{name}.weight": Transpose(Source(f"{name}.kernel")) for name in ("stem", "body", "neck", "head")}
>>> made |= {f"norm.{name}": Source(f"ln.{name}") for name in ("weight", "bias")}
>>> print(*outline(made, made), sep="\\n")
  transpose(*.kernel) -> *.weight, * = stem, body, neck and 1 more
  ln.{weight,bias} -> norm.{weight,bias}
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

from fxmap.errors import shorten
from fxmap.expressions.base import Expression, Source, substitute
from fxmap.mapping.patterns import Pattern, patterns

# Lines that fit one screen beside the rest of a report, and their width, beyond which one becomes two.
_SCREEN, _WIDE = 24, 80

# Modules whose tensors are made in one way that are worth a line together, and how many of them are named.
_SEVERAL, _NAMED = 3, 3


def outline(expressions: Mapping[str, Expression], keys: Iterable[str]) -> list[str]:
    """Return the lines that say how keys are made, at most a screen of them; `keys` are all keys of the destination."""
    sizes = Counter(key.rpartition(".")[0] for key in keys)
    lines: list[str] = []
    left = 0
    for entry in _entries(patterns(expressions), sizes):
        more = entry.lines()
        if left or len(lines) + len(more) > _SCREEN:
            left += entry.count
        else:
            lines += more
    return [*lines, *([f"  and {left} more keys, which --all and summary(all_keys=True) list"] if left else [])]


@dataclass(frozen=True, slots=True)
class _Entry:
    """How some keys are made: the text of source and destination, where that holds, and how many keys these are."""

    made: str
    key: str
    where: str
    count: int

    def lines(self) -> list[str]:
        """Return one line, or several where that is wide."""
        where = f", {self.where}" if self.where else ""
        if len(self.made) + len(self.key) + len(where) + 6 <= _WIDE:
            return [f"  {self.made} -> {self.key}{where}"]
        if self.where and len(self.made) + len(self.key) + 6 <= _WIDE:
            return [f"  {self.made} -> {self.key}", f"    {self.where}"]
        return [f"  {self.made}", f"    -> {self.key}{where}"]


def _entries(found: Iterable[Pattern], sizes: Mapping[str, int]) -> Iterator[_Entry]:
    """Yield an entry for what belongs together: renamed tensors of a module, and modules that are made in one way."""
    groups: dict[tuple[str, ...], list[Pattern]] = {}
    for pattern in found:
        groups.setdefault(_group_of(pattern), []).append(pattern)
    for group in groups.values():
        if len(group) > 1 and isinstance(group[0].expression, Source):
            yield _of_module(group, sizes)
        elif len(group) >= _SEVERAL:
            yield _of_modules(group)
        else:
            yield from (_Entry(one.source, one.destination, _where(one), len(one.keys)) for one in group)


def _group_of(pattern: Pattern) -> tuple[str, ...]:
    if isinstance(pattern.expression, Source):
        ours, theirs = pattern.source.rpartition("."), pattern.destination.rpartition(".")
        if ours[2] == theirs[2]:
            return ours[0], theirs[0], _where(pattern)
    template = _template(pattern)
    return template[1:] if template[0] else (str(pattern),)


def _template(pattern: Pattern) -> tuple[str, str, str]:
    """Return the path that all keys of a pattern begin with, and source and destination with `*` in its place.

    The path is empty where there is none.
    """
    if pattern.expression is None or isinstance(pattern.expression, Source):
        return "", "", ""
    sources = set(pattern.expression.sources())
    owners = zip(*(key.split(".")[:-1] for key in (pattern.destination, *sources)), strict=False)
    path = ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, owners))
    if not path:
        return "", "", ""
    moved: dict[str, Expression] = {key: Source(f"*{key.removeprefix(path)}") for key in sources}
    return path, str(substitute(pattern.expression, moved)), f"*{pattern.destination.removeprefix(path)}"


def _of_module(group: list[Pattern], sizes: Mapping[str, int]) -> _Entry:
    """Return the entry of the tensors of one module that are only renamed with it; where all of several are meant, `*`."""
    first = group[0]
    whole = len(group) > 2 and all(sizes[key.rpartition(".")[0]] == len(group) for key in first.keys)
    names = "*" if whole else f"{{{','.join(one.source.rpartition('.')[2] for one in group)}}}"
    made, key = (".".join([*text.split(".")[:-1], names]) for text in (first.source, first.destination))
    return _Entry(made, key, _where(first), sum(len(one.keys) for one in group))


def _of_modules(group: list[Pattern]) -> _Entry:
    """Return the entry of several modules of which a tensor is made in one way."""
    _, made, key = _template(group[0])
    paths = [_template(one)[0] for one in group]
    return _Entry(made, key, f"* = {shorten(paths, _NAMED)}", sum(len(one.keys) for one in group))


def _where(pattern: Pattern) -> str:
    return "; ".join(map(str, pattern.indices))
