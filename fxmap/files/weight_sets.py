"""Sets of weights: a file may hold several networks that fit one model equally well, of which one is meant.

Idea: what a model wants is a collection of shapes. A container of the file, or a prefix of its keys, is a set of weights
that fits if it has (nearly) as many of these shapes as the whole file has. Two that fit and do not overlap are a choice:
student and teacher, encoder_q and encoder_k, raw and averaged weights. It is made where one of them has a usual name and
the others have not, or where all hold the same values; otherwise nobody but the user can know.

Cost: linear in the number of keys, times their depth.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fxmap.errors import CheckpointError, shorten
from fxmap.model.tensors import equal
from fxmap.model.wrappers import is_average

# Where training scripts put the state dict in a checkpoint, the likeliest first; any other name is found as well.
CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "params", "net", "network", "weights")

# The share of the best fit from which on a set fits as well, and of what is wanted from which on a fit says anything.
_AS_GOOD, _TELLING = 0.95, 0.5

Shapes = Counter[tuple[int, ...]]


def shapes_of(state: Mapping[str, Any]) -> Shapes:
    """Count the shapes of a state dict, up to the order of axes; single numbers, such as counters, are left out.

    >>> import torch
    >>> shapes_of({"weight": torch.zeros(3, 2, 1), "step": torch.tensor(0)})
    Counter({(2, 3): 1})
    """
    tensors = (value for value in state.values() if isinstance(value, Tensor) and value.numel() > 1)
    return Counter(tuple(sorted(length for length in tensor.shape if length != 1)) for tensor in tensors)


def fit(shapes: Shapes, wanted: Shapes) -> float:
    """Return which share of the wanted shapes there is."""
    return (shapes & wanted).total() / wanted.total() if wanted else 0.0


@dataclass(frozen=True)
class Choice:
    """The set of weights that is meant, and the names of the others that would fit as well."""

    name: str
    others: tuple[str, ...] = ()


def usual(names: Sequence[str]) -> Choice | None:
    """Choose by names: raw weights before averaged ones, usual names before others; None where that decides nothing.

    >>> usual(["ema", "model"]).name, usual(["student", "teacher"])
    ('model', None)
    """
    ranks = {name: (is_average(name), not _is_usual(name)) for name in names}
    best = [name for name in names if ranks[name] == min(ranks.values())]
    return Choice(best[0], tuple(name for name in names if name != best[0])) if len(best) == 1 else None


def _is_usual(name: str) -> bool:
    return not name or name.rpartition(".")[2] in CONTAINERS


def choose(where: str, sets: Mapping[str, Mapping[str, Any]]) -> Choice:
    """Choose one of several sets of weights that fit.

    Raises:
        CheckpointError: neither names nor values decide; the message names the choices.
    """
    names = list(sets)
    chosen = usual(names)
    if chosen is not None:
        return chosen
    if all(_equal(sets[names[0]], sets[name]) for name in names[1:]):
        return Choice(names[0], tuple(names[1:]))
    raise CheckpointError(
        f"{where}: holds {len(names)} sets of weights that fit equally well: {shorten(names, 8)}. Which one is meant, "
        f"nothing says: choose with weights={names[0]!r} (or another of these names). Nothing was written"
    )


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    values = [[value for value in state.values() if isinstance(value, Tensor)] for state in (one, other)]
    return len(values[0]) == len(values[1]) and all(equal(a, b) for a, b in zip(*values, strict=True))


def sets_by_prefix(state: Mapping[str, Any], wanted: Shapes) -> dict[str, dict[str, Any]]:
    """Return the sets of weights in one state dict that fit equally well and do not overlap, by prefix without its dot.

    Fewer than two are no choice, and nothing is returned.

    >>> import torch
    >>> w = {"0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(3)}
    >>> state = {f"{name}.{key}": value for name in ("student", "teacher") for key, value in w.items()}
    >>> list(sets_by_prefix(state, shapes_of(w)))
    ['student', 'teacher']
    """
    needed = fit(shapes_of(state), wanted) * _AS_GOOD
    if needed < _TELLING * _AS_GOOD or wanted.total() < 2:
        return {}
    fits = {name: fit(shapes_of(group), wanted) for name, group in _by_prefix(state).items()}
    groups = {
        name: group
        for name, group in _by_prefix(state).items()
        if fits[name] >= needed and (fits[name] == 1 or not _is_layer(name, group))
    }
    inner = [name for name in groups if not any(_inside(other, name) for other in groups)]
    if len(inner) > 1:
        return {top: groups[top] for top in dict.fromkeys(_top(name, inner) for name in inner)}
    for name, group in groups.items():
        # Raw weights at the top, and averaged ones in a part of their own.
        outside = {key: value for key, value in state.items() if key not in group}
        if fit(shapes_of(outside), wanted) >= needed:
            return {"": outside, _top(name, [*inner, ""]): group}
    return {}


def _by_prefix(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        parts = key.split(".")
        for depth in range(1, len(parts)):
            groups.setdefault(".".join(parts[:depth]), {})[key] = value
    # What stands below a tensor (`weight.absmax`) says how that tensor is stored.
    return {name: group for name, group in groups.items() if name not in state}


def _is_layer(name: str, group: Iterable[str]) -> bool:
    """Whether a prefix is that of one layer: q, k and v, each of which has the shapes of another one, are no sets."""
    return not any("." in key.removeprefix(f"{name}.") for key in group)


def _inside(name: str, other: str) -> bool:
    return name.startswith(other + ".")


def _top(name: str, names: Iterable[str]) -> str:
    """Return the longest part of a name that is no part of the others: up to where it differs from them."""
    parts = name.split(".")
    others = [other.split(".") for other in names if other != name]
    shared = max((_shared(parts, other) for other in others), default=0)
    return ".".join(parts[: shared + 1])


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def under(state: Mapping[str, Any], name: str) -> "OrderedDict[str, Any]":
    """Return the keys under a prefix that ends with a dotted name; the outermost such prefix, empty where there is none.

    Raises:
        CheckpointError: several prefixes end so, and none of them is the outermost one or has a usual name.

    >>> list(under({"module.encoder_q.fc.weight": 1, "module.encoder_k.fc.weight": 2}, "encoder_q"))
    ['module.encoder_q.fc.weight']
    """
    wanted = name.split(".")
    prefixes = [prefix for prefix in _by_prefix(state) if prefix.split(".")[-len(wanted) :] == wanted]
    least = min((found.count(".") for found in prefixes), default=0)
    outer = [prefix for prefix in prefixes if prefix.count(".") == least]
    chosen = usual(outer) if outer else None
    if outer and name not in outer and chosen is None:
        raise CheckpointError(
            f"weights={name!r} is the name of {len(outer)} parts of the file: {shorten(outer, 8)}. Give the whole of one of "
            f"them, as in weights={outer[0]!r}. Nothing was written"
        )
    prefix = name if name in outer else chosen.name if chosen is not None else None
    return OrderedDict((key, value) for key, value in state.items() if prefix is not None and key.startswith(prefix + "."))
