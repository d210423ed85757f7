"""The command diff: two checkpoints by keys, shapes, dtypes and values, with the layers of a stack on one line.

Tensors are read one after the other, and compared piece by piece: two checkpoints may be larger than memory.

Cost: linear in the bytes of both.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.cli.commands import Found, Outcome, shape_of, state_of
from fxmap.cli.references import carried, parse, resolve
from fxmap.expressions.base import Source
from fxmap.files.checkpoint import open_checkpoint
from fxmap.files.lazy import materialise
from fxmap.mapping.patterns import patterns
from fxmap.model.wrappers import spell

# Numbers that are compared at once, in float64.
_PIECE = 2**22


@dataclass(frozen=True, slots=True)
class Difference:
    """How far the values of one key differ: at most, relative to the largest of A, in how many of them, and where first."""

    largest: float
    relative: float
    count: int
    first: tuple[int, ...]

    def __str__(self) -> str:
        return f"by {self.largest:.2g} at most ({self.relative:.1e} of the largest), {self.count:,} values"


def diff(
    a: str, b: str, tolerance: float = 0.0, all_keys: bool = False, report: Callable[..., None] = lambda *_: None
) -> Outcome:
    """Compare two checkpoints; of a model only keys, shapes and dtypes are compared, since its values are drawn."""
    one, other = (_opened(text) for text in (a, b))
    ours, theirs = state_of(one), state_of(other)
    spelling = spell(ours, theirs)
    first = {spelling.names[key]: value for key, value in ours.items()}
    both = [key for key in first if key in theirs]
    kinds = {key: (shape_of(first[key]), shape_of(theirs[key])) for key in both}
    changed = {key: (one, other) for key, (one, other) in kinds.items() if one != other}
    with_values = not isinstance(one, nn.Module) and not isinstance(other, nn.Module)
    values = dict(_differing(first, theirs, both, tolerance, report)) if with_values else {}
    # In A, keys have the spelling of their own file.
    own = {spelling.names[key]: key for key in ours}
    only_a = {own[key]: shape_of(value) for key, value in first.items() if key not in theirs}
    only_b = {key: shape_of(value) for key, value in theirs.items() if key not in first}
    worst = max(values, key=lambda key: values[key].relative, default=None)
    data: dict[str, Any] = {
        "equal": len(set(both) - set(changed) - set(values)),
        "changed": changed,
        "only_a": list(only_a),
        "only_b": list(only_b),
        "wrappers": spelling.note,
        "values_compared": with_values,
        "tolerance": tolerance,
        "values": {key: _as_data(found) for key, found in values.items()},
        "first_difference": next((key for key in first if key in changed or key in values or key not in theirs), None),
        "largest_difference": None if worst is None else {"key": worst, **_as_data(values[worst])},
    }
    same = not (changed or values or only_a or only_b)
    return Outcome("\n".join(_lines(data, values, (only_a, only_b), (len(ours), len(theirs)), all_keys)), data, same)


def _opened(text: str) -> Found:
    return resolve(text) if parse(text).origin else carried(text) or open_checkpoint(text, lazy=True)


def _as_data(found: Difference) -> dict[str, Any]:
    return {"largest": found.largest, "relative": found.relative, "count": found.count, "first": list(found.first)}


def _differing(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Iterable[str], tolerance: float, report: Callable[..., None]
) -> Iterator[tuple[str, Difference]]:
    """Yield the keys whose values differ by more than the tolerance, of those that have one shape."""
    keys = list(keys)
    for done, key in enumerate(keys):
        report(done / len(keys), "compare values", f"{done} of {len(keys)} keys")
        one, other = ours[key], theirs[key]
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            found = difference(materialise(one), materialise(other)) if one.shape == other.shape else None
            if found is not None and not found.relative <= tolerance:
                yield key, found
        elif not isinstance(one, Tensor) and not isinstance(other, Tensor) and one != other:
            yield key, Difference(math.inf, math.inf, 1, ())


def difference(one: Tensor, other: Tensor) -> Difference | None:
    """Return how far two tensors of one shape differ; None where all values are equal (a NaN equals a NaN).

    >>> found = difference(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.5]]))
    >>> found.largest, found.relative, found.count, found.first
    (0.5, 0.25, 1, (0, 1))
    """
    largest, scale, count, first = 0.0, 0.0, 0, None
    for start in range(0, one.numel(), _PIECE):
        a, b = (_numbers(value, start) for value in (one, other))
        unequal = (a != b) & ~(a.isnan() & b.isnan())
        scale = max(scale, float(a.abs().nan_to_num(nan=0.0, posinf=0.0).max()))
        if bool(unequal.any()):
            # Between infinite or absent numbers and others there is no finite difference.
            apart = (a - b).abs()[unequal].nan_to_num(nan=math.inf, posinf=math.inf)
            largest, count = max(largest, float(apart.max())), count + int(unequal.sum())
            first = start + int(unequal.flatten().nonzero()[0]) if first is None else first
    if first is None:
        return None
    place = tuple(int(index) for index in torch.unravel_index(torch.tensor(first), one.shape))
    return Difference(largest, largest / scale if scale else math.inf, count, place)


def _numbers(value: Tensor, start: int) -> Tensor:
    """Return a piece of the numbers of a tensor, in float64 (complex128 for complex ones)."""
    value = value.detach().dequantize() if value.is_quantized else value.detach()
    piece = value.reshape(-1)[start : start + _PIECE].cpu()
    return piece.to(torch.complex128 if piece.is_complex() else torch.float64)


def _lines(
    data: Mapping[str, Any],
    values: Mapping[str, Difference],
    only: tuple[Mapping[str, str], Mapping[str, str]],
    sizes: tuple[int, int],
    all_keys: bool,
) -> Iterator[str]:
    what = "name, shape, dtype and value" if data["values_compared"] else "name, shape and dtype"
    within = f" (values within {data['tolerance']:g})" if data["tolerance"] and data["values_compared"] else ""
    verdict = "different" if values or data["changed"] or any(only) else "equal"
    yield f"{verdict}: {data['equal']} of {sizes[0]} keys of A and {sizes[1]} of B agree in {what}{within}"
    if not data["values_compared"]:
        yield "values: not compared, since those of a model are drawn: give two checkpoints"
    if data["wrappers"]:
        yield f"wrappers: {data['wrappers']}"
    if data["first_difference"]:
        yield f"first difference: {data['first_difference']}"
    if data["largest_difference"]:
        key = data["largest_difference"]["key"]
        place = list(values[key].first)
        yield f"largest difference: {key}, {values[key]}, the first at {place}"
    for kind in (_of_values(values, all_keys), _of_kinds(data["changed"], all_keys), *_of_one(only, all_keys)):
        lines = list(kind)
        yield from lines if all_keys else lines[:_SCREEN]
        if len(lines) > _SCREEN and not all_keys:
            yield f"and {len(lines) - _SCREEN} more lines, which --all prints"


# Lines of one kind of difference, so that all of them fit a screen or two.
_SCREEN = 16


def _of_values(values: Mapping[str, Difference], all_keys: bool) -> Iterator[str]:
    for keys in _folded(values, all_keys):
        worst = max((values[key] for key in keys.members), key=lambda found: found.relative)
        yield f"values: {keys}: {worst}"


def _of_kinds(changed: Mapping[str, tuple[str, str]], all_keys: bool) -> Iterator[str]:
    for (one, other), members in _by(changed).items():
        yield from (f"changed: {keys}: {one} in A, {other} in B" for keys in _folded(members, all_keys))


def _of_one(only: tuple[Mapping[str, str], Mapping[str, str]], all_keys: bool) -> Iterator[list[str]]:
    for name, shapes in zip("AB", only, strict=True):
        found = ((keys, shape) for shape, members in _by(shapes).items() for keys in _folded(members, all_keys))
        yield [f"only in {name}: {keys}: {shape}" for keys, shape in found]


def _by(found: Mapping[str, Any]) -> dict[Any, list[str]]:
    """Return the keys by what is found of them."""
    groups: dict[Any, list[str]] = {}
    for key, value in found.items():
        groups.setdefault(value, []).append(key)
    return groups


@dataclass(frozen=True, slots=True)
class _Keys:
    """Keys on one line: a key, or a pattern of the same key in many layers."""

    text: str
    members: tuple[str, ...]

    def __str__(self) -> str:
        return self.text


def _folded(keys: Iterable[str], all_keys: bool) -> list[_Keys]:
    if all_keys:
        return [_Keys(key, (key,)) for key in keys]
    found = patterns({key: Source(key) for key in keys})
    return [_Keys(", ".join([one.destination, *map(str, one.indices)]), one.keys) for one in found]
