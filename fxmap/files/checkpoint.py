"""Checkpoints: find the weights in a file that may hold several sets of them."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fxmap.errors import CheckpointError, shorten
from fxmap.expressions.packing import is_object
from fxmap.files.reading import read_file
from fxmap.model.wrappers import is_average

# Where training scripts put the state dict in a checkpoint, the likeliest first; any other name is found as well.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "params", "net", "network", "weights")


_DEEPEST = 4


@dataclass(frozen=True)
class Checkpoint:
    """A state dict, and its place in the file that it was read from.

    `part` is the name of the container that it was taken from, as in `state_dict`, or empty; `others` are the containers
    of other weights in the same file, such as `ema`.
    """

    state: "OrderedDict[str, Any]"
    where: str
    part: str = ""
    others: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return a note on the other weights that the file holds, for the report; empty where it holds one set."""
        if not self.others:
            return ()
        chosen = repr(self.part) if self.part else "those at the top"
        names = ", ".join(self.others)
        choice = f"{chosen} are used, weights={self.others[0]!r} would choose others ({names})"
        return (f"{self.where} holds several weights: {choice}",)


def open_checkpoint(source: str | Path | Mapping[str, Any], weights: str | None = None) -> Checkpoint:
    """Read a checkpoint and find its weights, which may lie in containers such as {"state_dict": ...}.

    Args:
        source: a file of torch.save (read with `weights_only=True`), a .safetensors file, the index of a checkpoint in
            several files (model.safetensors.index.json, pytorch_model.bin.index.json), or what such a file holds.
        weights: the name of the container, where there are several: raw weights beside averaged ones, a teacher beside a
            student. By default raw weights go before averaged ones, usual names before others, and then the most tensors.

    Raises:
        CheckpointError: the file is absent, broken, or needs unsafe unpickling; there are no weights in it, or none of
            that name.

    Cost: the file is read once, into memory of the CPU.

    >>> import torch
    >>> found = open_checkpoint({"epoch": 3, "ema": {"a": torch.zeros(1)}, "model": {"a": torch.ones(1)}})
    >>> found.part, found.others, list(found.state)
    ('model', ('ema',), ['a'])
    """
    is_file = isinstance(source, str | Path)
    where = str(source) if is_file else "the source"
    return _choose(read_file(Path(source)) if is_file else source, where, weights)  # type: ignore[arg-type]


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


def _choose(data: object, where: str, weights: str | None) -> Checkpoint:
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{where}: a {type(data).__name__}, not a state dict. Save model.state_dict() instead")
    found = dict(_state_dicts(data))
    if not found:
        what = f"keys {shorten([str(key) for key in data])}" if data else "it is empty"
        raise CheckpointError(
            f"{where}: no tensors by name at the top, nor in a container such as {', '.join(_CONTAINERS[:3])}: {what}. "
            "Save model.state_dict() instead"
        )
    names = sorted(found, key=lambda name: _rank(name, found[name]))
    if weights is not None:
        names = [name for name in names if weights in (name, name.rpartition(".")[2])]
        if not names:
            raise CheckpointError(
                f"{where}: no weights named {weights!r}; there are {', '.join(repr(name) for name in found if name)}"
            )
    part, state = names[0], found[names[0]]
    # Tensors beside a container, such as the state of a random generator, are no weights.
    others = tuple(name for name in found if name and name != part and not (part == "" and _rank(name, found[name])[1]))
    return Checkpoint(state, f"{where}[{part!r}]" if part else where, part, others)


def _state_dicts(data: Mapping[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, "OrderedDict[str, Any]"]]:
    """Yield every state dict in nested containers, by its dotted path; the state of an optimizer is skipped."""
    if {"state", "param_groups"} <= data.keys():
        return
    if (
        data
        and all(isinstance(key, str) for key in data)
        and any(isinstance(v, Tensor) or is_object(v) for v in data.values())
    ):
        state = OrderedDict(data)
        if isinstance(metadata := getattr(data, "_metadata", None), Mapping):
            state._metadata = metadata  # type: ignore[attr-defined]
        yield ".".join(path), state
    if len(path) < _DEEPEST:
        for key, value in data.items():
            if isinstance(value, Mapping) and isinstance(key, str):
                yield from _state_dicts(value, (*path, key))


def _rank(name: str, state: Mapping[str, Any]) -> tuple[bool, int, int]:
    last = name.rpartition(".")[2]
    usual = _CONTAINERS.index(last) if last in _CONTAINERS else len(_CONTAINERS)
    return is_average(name), usual, -sum(isinstance(value, Tensor) for value in state.values())
