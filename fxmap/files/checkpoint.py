"""Checkpoints: find the weights in a file that may hold several sets of them."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any

from torch import Tensor

from fxmap.errors import CheckpointError, shorten
from fxmap.expressions.packing import is_object
from fxmap.files.computed import Computed, Settings, compute
from fxmap.files.configs import settings_beside
from fxmap.files.layouts import dense
from fxmap.files.limits import check_contents
from fxmap.files.reading import read_file
from fxmap.files.weight_sets import CONTAINERS, Choice, Shapes, choose, fit, sets_by_prefix, shapes_of, under
from fxmap.model.arguments import refuse_other_kind
from fxmap.model.tensors import equal
from fxmap.model.wrappers import is_average

_DEEPEST = 4


@dataclass(frozen=True)
class Checkpoint:
    """A state dict, and its place in the file that it was read from.

    `part` is the name of the container that it was taken from, as in `state_dict`, or empty; `others` are the containers
    of other weights in the same file, such as `ema`. `set_aside` are keys of other weights that lay in the same container,
    each with the name of its set. `computed` are the weights that are made of several of its tensors, and `settings` what
    other files beside it say of it.
    """

    state: "OrderedDict[str, Any]"
    where: str
    part: str = ""
    others: tuple[str, ...] = ()
    set_aside: dict[str, str] = field(default_factory=dict)
    computed: Computed = field(default_factory=Computed)
    settings: Settings = field(default_factory=Settings)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes for the report: on other weights that the file holds, and on those that are computed."""
        notes = []
        if self.others:
            chosen = repr(self.part) if self.part else "those at the top"
            names = ", ".join(self.others)
            choice = f"{chosen} are used, weights={self.others[0]!r} would choose others ({names})"
            notes.append(f"{self.where} holds several weights: {choice}")
        if self.computed.kinds:
            made = ", ".join(f"{count} of {name}" for name, count in self.computed.kinds.items())
            notes.append(f"weights are computed from several tensors of {self.where}: {made}")
        for stem, reason in list(self.computed.refused.items())[:1]:
            more = len(self.computed.refused) - 1
            also = f" (and {more} more)" if more else ""
            notes.append(f"{stem}{also} cannot be computed from the tensors of {self.where}: {reason}")
        return tuple(notes)


Source = str | Path | Mapping[str, Any] | Sequence[str | Path]


def open_checkpoint(
    source: Source,
    weights: str | None = None,
    wanted: Mapping[str, Any] | None = None,
    lora_alpha: float | None = None,
    *,
    lazy: bool = False,
) -> Checkpoint:
    """Read a checkpoint and find its weights, which may lie in containers such as {"state_dict": ...}.

    Args:
        source: a file of torch.save (read with `weights_only=True`), a .safetensors file, the index of a checkpoint in
            several files (model.safetensors.index.json, pytorch_model.bin.index.json), a folder of Hugging Face's libraries,
            several of these that make one state dict, or what such a file holds.
        weights: which weights, where there are several: the name of a container (`ema`), or of what stands before their keys
            (`encoder_q`, `teacher.backbone`). By default raw weights go before averaged ones, usual names before others,
            and then the most tensors.
        wanted: the state dict of the model that the weights are for. Where it is given, sets of weights that fit it equally
            well and have no usual names are a choice that is the user's, and weights that the file holds as several tensors
            are computed, unless the model holds them so too.
        lora_alpha: the strength of adapters in the file; by default that of adapter_config.json beside it.
        lazy: let tensors stay in their file, to be read when their numbers are needed (`files.lazy`). Formats that do not
            allow that are read at once.

    Raises:
        CheckpointError: the file is absent, broken, or needs unsafe unpickling; there are no weights in it, or none of
            that name; or several that fit, and nothing says which of them is meant.

    Cost: the file is read once, into memory of the CPU of its own: a file that is written or cut later changes nothing.
    With `lazy`, its header alone is read, and a file that is changed later is refused when a tensor is read.

    >>> import torch
    >>> found = open_checkpoint({"epoch": 3, "ema": {"a": torch.zeros(1)}, "model": {"a": torch.ones(1)}})
    >>> found.part, found.others, list(found.state)
    ('model', ('ema',), ['a'])
    """
    refuse_other_kind("weights", weights, (str, NoneType), "the name of a set of weights in the file")
    shapes = shapes_of(wanted or {})
    if isinstance(source, Sequence) and not isinstance(source, str):
        found = _joined([_opened(part, weights, Counter(), lazy) for part in source], shapes)
    else:
        found = _opened(source, weights, shapes, lazy)
    if wanted is None:
        return found
    settings = replace(found.settings, lora_alpha=lora_alpha)
    return replace(found, computed=compute(found.state, wanted, settings), settings=settings)


def _opened(source: str | Path | Mapping[str, Any], weights: str | None, shapes: Shapes, lazy: bool) -> Checkpoint:
    if not isinstance(source, str | Path):
        check_contents(source, "the source")
        return _in_plain_layout(_one_set(_choose(source, "the source", weights, shapes), shapes))
    path = Path(source)
    found = _one_set(_choose(read_file(path, lazy=lazy), str(source), weights, shapes), shapes)
    return replace(_in_plain_layout(found), settings=settings_beside(path))


def _in_plain_layout(found: Checkpoint) -> Checkpoint:
    plain = dense(found.state)
    return found if plain is found.state else replace(found, state=OrderedDict(plain))


def read(path: str | Path, weights: str | None = None) -> "OrderedDict[str, Any]":
    """Return the state dict of a checkpoint file; as `open_checkpoint`."""
    return open_checkpoint(Path(path), weights).state


def read_tensors(path: str | Path) -> Any:
    """Read a file of tensors that is no checkpoint: one tensor, a list of them, or a dict.

    Raises:
        CheckpointError: the file is absent, broken, needs unsafe unpickling, or holds something else.
    """
    data = read_file(Path(path))
    parts = [data] if isinstance(data, Tensor) else list(data.values()) if isinstance(data, Mapping) else data
    if not isinstance(parts, list | tuple) or not parts or not all(isinstance(part, Tensor) for part in parts):
        raise CheckpointError(f"{path}: not a tensor, nor a list of tensors, but a {type(data).__name__}")
    return data


def _choose(data: object, where: str, weights: str | None, wanted: Shapes) -> Checkpoint:
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{where}: a {type(data).__name__}, not a state dict. Save model.state_dict() instead")
    found = dict(_state_dicts(data))
    if not found:
        what = f"keys {shorten([str(key) for key in data])}" if data else "it is empty"
        raise CheckpointError(
            f"{where}: no tensors by name at the top, nor in a container such as {', '.join(CONTAINERS[:3])}: {what}. "
            "Save model.state_dict() instead"
        )
    if weights is not None:
        return _named(found, where, weights)
    whole = _parts_of_one(found)
    if fit(shapes_of(whole), wanted) > max(fit(shapes_of(state), wanted) for state in found.values()) / _ALONE:
        return Checkpoint(whole, where)
    chosen = _fitting(found, where, wanted)
    part, state = chosen.name, found[chosen.name]
    # Tensors beside a container, such as the state of a random generator, are no weights.
    others = tuple(name for name in found if name and name != part and not (part == "" and _rank(name, found[name])[1]))
    return Checkpoint(state, f"{where}[{part!r}]" if part else where, part, others)


# Where no container alone has this share of what all together have, they are the parts of one network.
_ALONE = 0.75


def _parts_of_one(found: Mapping[str, Mapping[str, Any]]) -> "OrderedDict[str, Any]":
    """Return all containers as one state dict, as of a network whose encoder and decoder were saved apart."""
    raw = [(name, state) for name, state in found.items() if name and not is_average(name)]
    return OrderedDict((f"{name}.{key}", value) for name, state in raw for key, value in state.items())


def _fitting(found: Mapping[str, Mapping[str, Any]], where: str, wanted: Shapes) -> Choice:
    """Choose the container whose shapes fit the wanted ones best, or by name and size where none fits well."""
    first = min(found, key=lambda name: _rank(name, found[name]))
    fits = {name: fit(shapes_of(state), wanted) for name, state in found.items()}
    best = max(fits.values())
    if best < 0.5 or len(found) == 1:
        return Choice(first)
    good = {name: found[name] for name in found if fits[name] >= best * 0.95}
    return choose(where, good)


def _named(found: Mapping[str, "OrderedDict[str, Any]"], where: str, weights: str) -> Checkpoint:
    """Return the weights that a name selects: those in a container, or those whose keys have it as a prefix."""
    names = [name for name in found if weights in (name, name.rpartition(".")[2])]
    if names:
        part = weights if weights in names else choose(where, {name: found[name] for name in names}).name
        others = tuple(name for name in found if name and name != part)
        return Checkpoint(found[part], f"{where}[{part!r}]", part, others)
    for name, state in found.items():
        full = {f"{name}.{key}" if name else key: key for key in state}
        chosen = OrderedDict((full[path], state[full[path]]) for path in under(dict.fromkeys(full), weights))
        if chosen:
            aside = {key: "weights that were not chosen" for key in state if key not in chosen}
            return Checkpoint(chosen, f"{where}[{weights!r}]", weights, (), aside)
    tops = dict.fromkeys(key.partition(".")[0] for state in found.values() for key in state if "." in key)
    containers = ", ".join(repr(name) for name in found if name) or "no containers"
    raise CheckpointError(
        f"{where}: no weights named {weights!r}; there are {containers}, "
        f" keys that begin with {shorten([repr(top) for top in tops], 8)}"
    )


def _one_set(found: Checkpoint, wanted: Shapes) -> Checkpoint:
    """Keep one of several sets of weights that lie under prefixes of one state dict."""
    sets = sets_by_prefix(found.state, wanted)
    if not sets:
        return found
    chosen = choose(found.where, sets)
    aside = {key: name for name in chosen.others for key in sets[name]}
    state = OrderedDict((key, value) for key, value in found.state.items() if key not in aside)
    if hasattr(found.state, "_metadata"):
        state._metadata = found.state._metadata  # type: ignore[attr-defined]
    part = ".".join(filter(None, (found.part, chosen.name)))
    return replace(found, state=state, part=part, others=(*found.others, *chosen.others), set_aside=aside)


def _joined(parts: Sequence[Checkpoint], wanted: Shapes) -> Checkpoint:
    """Join several files to one state dict.

    Raises:
        CheckpointError: there is none, or a key has two values.
    """
    state: OrderedDict[str, Any] = OrderedDict()
    for part in parts:
        twice = [key for key in part.state if key in state and not _is_same(state[key], part.state[key])]
        if twice:
            raise CheckpointError(
                f"{part.where}: {shorten(twice)}: in an earlier file too, with other values. Files that are given together "
                "must be parts of one state dict; load them one after the other, with into= for the part of the destination"
            )
        state.update(part.state)
    if not state:
        raise CheckpointError("no files were given")
    settings = [part.settings for part in parts]
    told = Settings(
        adapter=next((one.adapter for one in settings if one.adapter), {}),
        packing=next((one.packing for one in settings if one.packing), {}),
    )
    return _one_set(Checkpoint(state, " and ".join(part.where for part in parts), settings=told), wanted)


def _is_same(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return type(one) is type(other)
    return equal(one, other)


def _state_dicts(data: Mapping[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, "OrderedDict[str, Any]"]]:
    """Yield every state dict in nested containers, by its dotted path; the state of an optimizer is skipped.

    Dicts in a container that has no tensors of its own are the parts of one network, unless their names are those of
    containers.
    """
    if {"state", "param_groups"} <= data.keys():
        return
    if all(isinstance(key, str) for key in data) and any(map(_is_value, data.values())):
        state = OrderedDict(data)
        if isinstance(metadata := getattr(data, "_metadata", None), Mapping):
            state._metadata = metadata  # type: ignore[attr-defined]
        yield ".".join(path), state
    elif path and _is_one_network(data):
        yield ".".join(path), OrderedDict(_flattened(data))
        return
    if len(path) < _DEEPEST:
        for key, value in data.items():
            if isinstance(value, Mapping) and isinstance(key, str):
                yield from _state_dicts(value, (*path, key))


def _is_value(value: object) -> bool:
    return isinstance(value, Tensor) or is_object(value)


def _is_one_network(data: Mapping[Any, Any]) -> bool:
    """Whether a container without tensors of its own holds the parts of one network, in dicts."""
    parts = [key for key, value in data.items() if isinstance(value, Mapping) and any(True for _ in _flattened(value))]
    return bool(parts) and not any(not isinstance(key, str) or key in CONTAINERS or is_average(key) for key in parts)


def _flattened(data: Mapping[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if {"state", "param_groups"} <= data.keys() or len(path) > 4 * _DEEPEST:
        return
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, (*path, str(key)))
        elif _is_value(value):
            yield ".".join((*path, str(key))), value


def _rank(name: str, state: Mapping[str, Any]) -> tuple[bool, int, int]:
    last = name.rpartition(".")[2]
    order = CONTAINERS.index(last) if last in CONTAINERS else len(CONTAINERS)
    return is_average(name), order, -sum(isinstance(value, Tensor) for value in state.values())
