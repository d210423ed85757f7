"""Read the files of checkpoints without running their code."""

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fxmap.errors import CheckpointError, shorten
from fxmap.files.quantized import ENTRY, rebuild

INDEX = ".index.json"


def read_file(path: Path) -> Any:
    """Read what a checkpoint file holds, on the CPU.

    Raises:
        CheckpointError: the file is absent or broken, or reading it would run code.
    """
    if not path.is_file():
        hint = f"; a folder: name the file in it, such as one that ends in {INDEX}" if path.is_dir() else ""
        raise CheckpointError(f"{path}: no such file{hint}")
    if path.name.endswith(INDEX):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        try:
            return _read_safetensors(path)
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError, OverflowError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file: {reason_of(error)}") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, error)) from error
    except Exception as error:
        # A damaged pickle fails in whatever way its bytes say: each of them is a fault of the file.
        raise CheckpointError(f"{path}: not a readable checkpoint: {reason_of(error)}") from error


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
        description = (file.metadata() or {}).get(ENTRY)
    return tensors if description is None else rebuild(tensors, description)


def reason_of(error: BaseException) -> str:
    """Return the class of an error and the first line of its message."""
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
        return f"{path}: not a readable checkpoint: {reason_of(error)}"
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
            f'{index}: not an index of shards {{"weight_map": {{key: file}}}}: {reason_of(error)}'
        ) from error
    absent = [name for name in dict.fromkeys(shards.values()) if not (index.parent / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{index}: {len(absent)} of {len(set(shards.values()))} shards are not beside it: {shorten(absent)}. "
            "Fetch them into the same folder"
        )
    state: dict[str, Tensor] = {}
    for name in dict.fromkeys(shards.values()):
        held = read_file(index.parent / name)
        wanted = [key for key, shard in shards.items() if shard == name]
        lost = [key for key in wanted if not isinstance(held, Mapping) or not isinstance(held.get(key), Tensor)]
        if lost:
            raise CheckpointError(f"{index.parent / name}: lacks {shorten(lost)}, which {index.name} says it holds")
        state.update({key: held[key] for key in wanted})
    return state


def _shard_name(index: Path, name: object) -> str:
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name or name.endswith(INDEX):
        raise CheckpointError(f"{index}: the shard {name!r} is not the name of a file beside it")
    return name
