"""Checkpoint files: read without running their code, written whole or not at all."""

import json
import os
import pickle
import re
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fxmap.errors import CheckpointError, shorten
from fxmap.quantization.files import ENTRY, flatten, rebuild
from fxmap.quantization.packing import is_object
from fxmap.quantization.wrapped import is_wrapped
from fxmap.wrappers import is_average

# Where training scripts put the state dict in a checkpoint, the likeliest first; any other name is found as well.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "params", "net", "network", "weights")
_DEEPEST = 4
_INDEX = ".index.json"


@dataclass(frozen=True)
class Checkpoint:
    """A state dict, and where in its file it lay.

    `part` is the name of the container that it was taken from, as in `state_dict`, or empty; `others` are the containers
    of other weights in the same file, such as `ema`.
    """

    state: "OrderedDict[str, Any]"
    where: str
    part: str = ""
    others: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what there was to choose, for a report."""
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

    >>> found = open_checkpoint({"epoch": 3, "ema": {"a": torch.zeros(1)}, "model": {"a": torch.ones(1)}})
    >>> found.part, found.others, list(found.state)
    ('model', ('ema',), ['a'])
    """
    is_file = isinstance(source, str | Path)
    where = str(source) if is_file else "the source"
    return _choose(_read_file(Path(source)) if is_file else source, where, weights)  # type: ignore[arg-type]


def read(path: str | Path, weights: str | None = None) -> "OrderedDict[str, Any]":
    """Return the state dict of a checkpoint file; as `open_checkpoint`."""
    return open_checkpoint(Path(path), weights).state


def unwrap(data: object, where: str) -> "OrderedDict[str, Any]":
    """Return the state dict of what a checkpoint file holds; as `open_checkpoint`."""
    return _choose(data, where, None).state


def read_tensors(path: str | Path) -> Any:
    """Read a file of tensors that is no checkpoint: one tensor, a list of them, or a dict.

    Raises:
        CheckpointError: the file is absent, broken, needs unsafe unpickling, or holds something else.
    """
    data = _read_file(Path(path))
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
    """Yield what holds tensors by name, by the dotted name of its container; the state of an optimizer does not count."""
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


def _read_file(path: Path) -> Any:
    if not path.is_file():
        hint = f"; a folder: name the file in it, such as one that ends in {_INDEX}" if path.is_dir() else ""
        raise CheckpointError(f"{path}: no such file{hint}")
    if path.name.endswith(_INDEX):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        try:
            return _read_safetensors(path)
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError, OverflowError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file: {_reason(error)}") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, error)) from error
    except Exception as error:
        # A damaged pickle fails in whatever way its bytes say: each of them is a fault of the file.
        raise CheckpointError(f"{path}: not a readable checkpoint: {_reason(error)}") from error


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
        description = (file.metadata() or {}).get(ENTRY)
    return tensors if description is None else rebuild(tensors, description)


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _refusal(path: Path, error: pickle.UnpicklingError) -> str:
    """Say which globals a file wants, and what to do about it."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        # An older format, or a damaged file: the message of torch names the first global, if that is the reason.
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]
    if not names:
        return f"{path}: not a readable checkpoint: {_reason(error)}"
    return (
        f"{path}: refused: it holds more than tensors, and reading it would run code: it wants {shorten(sorted(names))}. "
        "Where the file comes from, save the weights alone: torch.save(model.state_dict(), path). If you trust whoever made "
        "it, do that yourself after torch.load(path, weights_only=False), in a process of its own"
    )


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Read a checkpoint that lies in several files, by its index {"weight_map": {key: file}}."""
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {str(key): _shard_name(index, name) for key, name in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise CheckpointError(
            f'{index}: not an index of shards {{"weight_map": {{key: file}}}}: {_reason(error)}'
        ) from error
    absent = [name for name in dict.fromkeys(shards.values()) if not (index.parent / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{index}: {len(absent)} of {len(set(shards.values()))} shards are not beside it: {shorten(absent)}. "
            "Fetch them into the same folder"
        )
    state: dict[str, Tensor] = {}
    for name in dict.fromkeys(shards.values()):
        held = _read_file(index.parent / name)
        wanted = [key for key, shard in shards.items() if shard == name]
        lost = [key for key in wanted if not isinstance(held, Mapping) or not isinstance(held.get(key), Tensor)]
        if lost:
            raise CheckpointError(f"{index.parent / name}: lacks {shorten(lost)}, which {index.name} says it holds")
        state.update({key: held[key] for key in wanted})
    return state


def _shard_name(index: Path, name: object) -> str:
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name or name.endswith(_INDEX):
        raise CheckpointError(f"{index}: the shard {name!r} is not the name of a file beside it")
    return name


def save(state: Mapping[str, Any], path: str | Path, *, overwrite: bool = False) -> None:
    """Write a state dict to a .safetensors file, or as torch.save does (.pt, .pth, .bin); atomically.

    Dtypes are kept, and so are quantized tensors: .safetensors holds their integers, scales, zero points and axis, and what
    `open_checkpoint` rebuilds of them is equal bit for bit. `_metadata` is kept. Keys that share a tensor stay tied in a
    file of torch.save; in .safetensors, which has no such thing, each has its own copy. The file appears under its name when
    it is complete.

    Raises:
        CheckpointError: the file is there already, its name ends in something else, or it cannot be written; nothing was
            changed. Also where the format cannot hold a value, such as a tensor subclass in .safetensors.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".pt", ".pth", ".bin"):
        raise CheckpointError(f"{path}: the name must end in .safetensors, .pt, .pth or .bin, which says the format")
    if path.exists() and not overwrite:
        raise CheckpointError(
            f"{path}: there already, not overwritten. Choose another name, or say overwrite=True (--force)"
        )
    metadata = {"format": "pt"}
    if path.suffix == ".safetensors":
        values, description = _flat(state, path)
        # Plain tensors alone need none; but observers and packed layers read the versions in `_metadata`.
        if hasattr(state, "_metadata") or values.keys() != state.keys():
            metadata[ENTRY] = description
    else:
        values = _compact(state, path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error
    os.close(handle)
    try:
        if path.suffix == ".safetensors":
            save_file(values, name, metadata=metadata)
        else:
            torch.save(values, name)
        # A file of mkstemp is for its owner alone; what the user asked for has the usual rights.
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot be written: {_reason(error)}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flat(state: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        return flatten(state)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}, and .safetensors holds plain tensors alone. Write a .pth file") from error


def _compact(state: Mapping[str, Any], path: Path) -> "OrderedDict[str, Any]":
    """Copy views, so that a slice does not bring all of its tensor with it; tensors that are tied stay so."""
    objects = [key for key, value in state.items() if is_object(value)]
    if objects:
        raise CheckpointError(
            f"{path}: {shorten(objects)}: packed parameters of a recurrent layer, which torch.load with weights_only=True "
            "refuses to read again. Write a .safetensors file, where fxmap keeps their parts"
        )
    copies: dict[tuple[Any, ...], Tensor] = {}
    result: OrderedDict[str, Any] = OrderedDict()
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.is_quantized or is_wrapped(value) or value.layout != torch.strided:
            result[key] = value
            continue
        place = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride(), value.dtype)
        known = place if value.numel() else (key,)
        result[key] = copies.setdefault(known, value.detach().clone())
    if hasattr(state, "_metadata"):
        result._metadata = state._metadata  # type: ignore[attr-defined]
    return result
