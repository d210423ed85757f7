"""To transformers: a mapping as the rules by which `from_pretrained` loads a checkpoint, and `save_pretrained` reverses it.

transformers (5 and later) renames keys by regular expressions, all of them in turn, and then lets at most one converter
chunk, split, join, stack or transpose. A converter cannot carry the number of a layer from one name to another, so that a
renaming does that first, to a name of its own (`fxmap.`) below the destination's layer, which the converter reads.

What their operations cannot say is refused by name: rows by number, other orders of axes, parts of other sizes in a join,
which their reverse would cut into equal ones, and anything that computes.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fxmap.errors import MappingError, shorten
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Concat, Reshape, Slice, Transpose
from fxmap.expressions.simplify import Shapes
from fxmap.mapping.patterns import numbers_in

# What a converter does: the name of an operation, and its arguments.
_Op = tuple[str, tuple[int, ...]]

_TRANSPOSE: _Op = ("Transpose", (0, 1))


@dataclass(frozen=True, slots=True)
class _Recipe:
    """Source keys, the destination keys that are made of them, and the operations; none for a renaming."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    ops: tuple[_Op, ...] = ()


def to_transformers(expressions: Mapping[str, Expression], shapes: Shapes) -> list[Any]:
    """Return the rules; see `KeyMapping.to_transformers`."""
    recipes, refused = _recipes(expressions, shapes)
    if refused:
        key, reason = next(iter(refused.items()))
        raise MappingError(
            f"{shorten(list(refused))}: transformers' operations cannot say how this is made: {key}: {reason}. Convert the "
            "file instead, by fxmap.convert, or load it by mapping.load_into(model, path)"
        )
    try:
        from transformers import core_model_loading as library
    except ImportError as error:
        raise MappingError(f"transformers 5 or later has these rules, and it cannot be imported: {error}") from error
    renamings: list[Any] = []
    converters: dict[tuple[str, ...], tuple[tuple[_Op, ...], Any]] = {}
    for rule in _ordered(_rules(recipes)):
        renamings += [library.WeightRenaming(pattern, name) for pattern, name in rule.renamings]
        if rule.ops:
            known = converters.get(rule.leaves)
            if known is not None and known[0] != rule.ops:
                raise MappingError(f"{', '.join(rule.leaves)}: made in two ways, which their names cannot tell apart")
            operations = [getattr(library, name)(*arguments) for name, arguments in rule.ops]
            converter = library.WeightConverter(list(rule.parts), list(rule.leaves), operations)
            converters[rule.leaves] = rule.ops, converter
    made = [converter for _, converter in converters.values()]
    _check(library, recipes, renamings, made)
    return [*renamings, *made]


def _recipes(expressions: Mapping[str, Expression], shapes: Shapes) -> tuple[list[_Recipe], dict[str, str]]:
    """Return recipes for all destination keys, and the keys that have none, with the reasons."""
    readers = Counter(source for part in expressions.values() for source in dict.fromkeys(part.sources()))
    recipes: list[_Recipe] = []
    refused: dict[str, str] = {}
    split: dict[tuple[str, bool, bool], list[tuple[int, int, str]]] = {}
    for key, part in expressions.items():
        cut = _slice_of(part)
        if cut is not None:
            source, start, stop, before, after = cut
            split.setdefault((source, before, after), []).append((start, stop, key))
            continue
        found = _one_target(key, part, shapes)
        twice = [source for source in dict.fromkeys(part.sources()) if readers[source] > 1]
        if isinstance(found, str):
            refused[key] = f"{part}: {found}"
        elif twice:
            refused[key] = f"{twice[0]} is used for other keys as well, and they use a key once"
        else:
            recipes.append(found)
    for (source, before, after), pieces in split.items():
        parts = _split(source, before, after, sorted(pieces), shapes)
        if isinstance(parts, str) or readers[source] != len(pieces):
            reason = parts if isinstance(parts, str) else f"{source} is used for other keys as well"
            refused |= {key: reason for _, _, key in pieces}
        else:
            recipes.append(parts)
    return recipes, refused


def _one_target(key: str, part: Expression, shapes: Shapes) -> _Recipe | str:
    """Return the recipe of a key that is made of whole tensors, or why there is none."""
    match part:
        case Source(source):
            return _Recipe((source,), (key,))
        case Transpose(Source(source)):
            return _Recipe((source,), (key,), (_TRANSPOSE,))
        case Concat(parts) if all(isinstance(one, Reshape) and isinstance(one.of, Source) for one in parts):
            return _stack(key, parts, shapes)
        case Concat(parts) if all(isinstance(one, Source) for one in parts):
            return _join(key, [one.key for one in parts if isinstance(one, Source)], shapes, transposed=False)
        case Concat(parts) if all(isinstance(one, Transpose) and isinstance(one.of, Source) for one in parts):
            keys = [one.of.key for one in parts if isinstance(one, Transpose) and isinstance(one.of, Source)]
            return _join(key, keys, shapes, transposed=True)
    return "they have no such operation"


def _join(key: str, sources: Sequence[str], shapes: Shapes, *, transposed: bool) -> _Recipe | str:
    if len(set(sources)) != len(sources):
        return "a tensor is used twice"
    sizes = {shapes[source][-1 if transposed else 0] if source in shapes else None for source in sources}
    if len(sizes) != 1 or None in sizes:
        return "its parts have other sizes, or unknown ones (like=src.state_dict()), and their reverse makes equal ones"
    ops = (("Concatenate", (1,)), _TRANSPOSE) if transposed else (("Concatenate", (0,)),)
    return _Recipe(tuple(sources), (key,), ops)


def _stack(key: str, parts: Sequence[Expression], shapes: Shapes) -> _Recipe | str:
    """Return the recipe of experts in a list that become one tensor: numbered from 0 in their names, in this order."""
    sources = [one.of.key for one in parts if isinstance(one, Reshape) and isinstance(one.of, Source)]
    stacked = all(
        isinstance(one, Reshape) and source in shapes and one.shape == (1, *shapes[source])
        for one, source in zip(parts, sources, strict=True)
    )
    varying = tuple(range(len(sources))) in set(zip(*map(numbers_in, sources), strict=False))
    if not stacked or not varying or len({_masked(source) for source in sources}) != 1:
        return "only tensors that are numbered from 0 in their names are stacked"
    return _Recipe(tuple(sources), (key,), (("MergeModulelist", (0,)),))


def _slice_of(part: Expression) -> tuple[str, int, int, bool, bool] | None:
    """Return source, rows, and whether it is transposed before and after, of an expression that is a part of one tensor."""
    match part:
        case Slice(Source(source), start, stop):
            return source, start, stop, False, False
        case Slice(Transpose(Source(source)), start, stop):
            return source, start, stop, True, False
        case Transpose(Slice(Source(source), start, stop)):
            return source, start, stop, False, True
    return None


def _split(source: str, before: bool, after: bool, pieces: Sequence[tuple[int, int, str]], shapes: Shapes) -> _Recipe | str:
    if source not in shapes:
        return f"the shape of {source} is not known. Pass like=src.state_dict()"
    total = shapes[source][-1 if before else 0]
    bounds = [0, *(stop for _, stop, _ in pieces)]
    if [start for start, _, _ in pieces] != bounds[:-1] or bounds[-1] != total:
        return f"the parts of {source} leave rows out, or share some"
    sizes = {stop - start for start, stop, _ in pieces}
    axis = 1 if after else 0
    cut: _Op = ("Chunk" if len(sizes) == 1 else "Split", (axis,))
    keys = tuple(key for _, _, key in pieces)
    return _Recipe((source,), keys, (_TRANSPOSE, cut) if before or after else (cut,))


@dataclass(frozen=True, slots=True)
class _Rule:
    """Renamings (regular expression, name), and a converter of the renamed parts to leaves, where there are operations.

    `reads` and `writes` are keys of one layer, by which rules are put in order.
    """

    renamings: tuple[tuple[str, str], ...]
    parts: tuple[str, ...]
    leaves: tuple[str, ...]
    ops: tuple[_Op, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def _rules(recipes: Iterable[_Recipe]) -> list[_Rule]:
    """Generalise recipes over one number, and write them as rules."""
    groups: dict[tuple[Any, ...], list[_Recipe]] = {}
    for recipe in recipes:
        masked = tuple(map(_masked, recipe.sources)), tuple(map(_masked, recipe.targets)), recipe.ops
        groups.setdefault(masked, []).append(recipe)
    shared = Counter(masked for (sources, _, _) in groups for masked in set(sources))
    rules = []
    for (sources, _, _), group in groups.items():
        places = _layer_places(group)
        by_rest: dict[tuple[tuple[str, ...], tuple[str, ...]], list[_Recipe]] = {}
        for recipe in group:
            keys = (*recipe.sources, *recipe.targets)
            rest = (
                tuple(_with_number(key, place, r"\1") for key, place in zip(keys, places, strict=True)) if places else keys
            )
            by_rest.setdefault((rest[: len(recipe.sources)], rest[len(recipe.sources) :]), []).append(recipe)
        for (read, written), members in by_rest.items():
            alone = len(by_rest) == 1 and all(shared[source] == 1 for source in sources)
            values = [numbers_in(recipe.sources[0])[places[0]] for recipe in members] if places else []
            number = r"(\d+)" if alone and values else f"({'|'.join(map(str, values))})"
            if members[0].ops or members[0].sources != members[0].targets:
                rules.append(_rule(read, written, number, members[0]))
    return rules


def _rule(read: Sequence[str], written: Sequence[str], number: str, recipe: _Recipe) -> _Rule:
    patterns = ["^" + re.escape(key).replace(re.escape(r"\1"), number) for key in read]
    if not recipe.ops:
        return _Rule(((patterns[0], written[0]),), (), (), (), recipe.sources, recipe.targets)
    layer = written[0][: written[0].index(r"\1") + 3] if r"\1" in written[0] and len(written[0].split(r"\1.")) > 1 else ""
    leaves = tuple(name.removeprefix(layer) for name in written)
    stem = f"fxmap.{leaves[0]}"
    if recipe.ops[0][0] == "MergeModulelist":
        names = tuple(f"{stem}.{place}.part" for place in range(len(read)))
        parts: tuple[str, ...] = (f"{stem}.*.part",)
    else:
        parts = names = tuple(f"{stem}.part{place}" for place in range(len(read)))
    renamings = tuple((pattern, layer + name) for pattern, name in zip(patterns, names, strict=True))
    return _Rule(renamings, parts, leaves, recipe.ops, recipe.sources, ())


def _ordered(rules: Sequence[_Rule]) -> list[_Rule]:
    """Order rules so that none renames what another one made: all that read a name come before those that write it.

    Raises:
        MappingError: there is no such order, since names are exchanged.
    """
    left, ordered = list(rules), []
    while left:
        ready = [
            rule
            for rule in left
            if not any(
                other is not rule and any(re.match(pattern, key) for pattern, _ in other.renamings for key in rule.writes)
                for other in left
            )
        ]
        if not ready:
            keys = [key for rule in left for key in rule.reads]
            raise MappingError(
                f"{shorten(keys)}: names are exchanged with one another, and transformers renames one after the other. "
                "Convert the file instead, by fxmap.convert"
            )
        # A rule is ready when no other one that is left reads what it writes.
        ordered += ready
        left = [rule for rule in left if rule not in ready]
    return ordered


def _check(library: Any, recipes: Iterable[_Recipe], renamings: Sequence[Any], converters: Sequence[Any]) -> None:
    """Rename every key by transformers' own code, and compare.

    Raises:
        MappingError: one gets another name.
    """
    for recipe in recipes:
        for source in recipe.sources:
            name, pattern = library.rename_source_key(source, list(renamings), list(converters))
            if name != recipe.targets[0] or (pattern is None) is bool(recipe.ops):
                raise MappingError(
                    f"{recipe.targets[0]}: transformers would give {source} the name {name}: the names of other layers are "
                    "too similar for its patterns. Convert the file instead, by fxmap.convert"
                )


def _layer_places(group: Sequence[_Recipe]) -> tuple[int, ...]:
    """Return, for every key of the recipes, which of its numbers is that of the layer: the one that all keys share.

    Of several that of the most values; empty where there is none.
    """
    best: tuple[int, tuple[int, ...]] = (1, ())
    keys = [[numbers_in(key) for key in (*recipe.sources, *recipe.targets)] for recipe in group]
    for which in range(len(keys[0][0])):
        values = [member[0][which] for member in keys]
        places = []
        for place in range(len(keys[0])):
            same = [
                position
                for position in range(len(keys[0][place]))
                if all(member[place][position] == value for member, value in zip(keys, values, strict=True))
            ]
            places += same[:1]
        if len(places) == len(keys[0]) and len(set(values)) > best[0]:
            best = len(set(values)), tuple(places)
    return best[1]


def _masked(key: str) -> str:
    return ".".join("#" if part.isdecimal() else part for part in key.split("."))


def _with_number(key: str, place: int, text: str) -> str:
    """Return a key with a text for one of its numbers."""
    parts = key.split(".")
    parts[[at for at, part in enumerate(parts) if part.isdecimal()][place]] = text
    return ".".join(parts)
