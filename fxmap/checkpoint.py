"""Checkpoint files and what wrappers do to keys."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fxmap.errors import CheckpointError

# What containers put before every key; the first two are those of torch itself.
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Where training scripts put the state dict in a checkpoint.
_CONTAINERS = ("state_dict", "model_state_dict", "model")


def read(path: str | Path) -> dict[str, Any]:
    """Read a state dict from a .safetensors file, or from a file of torch.save with `weights_only=True`.

    Raises:
        CheckpointError: the file is absent, broken, not a state dict, or needs unsafe unpickling.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        data = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, since reading it would run code of the file: {str(error).splitlines()[0]} Save the state "
            "dict alone, torch.save(model.state_dict(), path), where the file comes from"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error
    return unwrap(data, str(path))


def unwrap(data: object, where: str) -> dict[str, Any]:
    """Return the state dict of a checkpoint, which may lie in a container such as {"state_dict": ...}.

    Raises:
        CheckpointError: there is none.
    """
    if isinstance(data, Mapping):
        for name in _CONTAINERS:
            if isinstance(data.get(name), Mapping):
                return unwrap(data[name], f"{where}[{name!r}]")
        if data and all(isinstance(key, str) for key in data) and any(isinstance(v, torch.Tensor) for v in data.values()):
            return dict(data)
        raise CheckpointError(
            f"{where}: no tensors by name at the top or in {', '.join(_CONTAINERS)}: keys {list(data)[:5]}"
        )
    raise CheckpointError(f"{where}: a {type(data).__name__}, not a state dict")


def match_prefix(state_dict: Mapping[str, Any], wanted: set[str]) -> tuple[Mapping[str, Any], str]:
    """Strip or add wrapper prefixes until the wanted keys are there; say what was done.

    >>> match_prefix({"module.fc.weight": 1}, {"fc.weight"})
    ({'fc.weight': 1}, "stripped 'module.'")
    """
    if not wanted or wanted & state_dict.keys():
        return state_dict, ""
    stripped, removed = dict(state_dict), ""
    while prefix := next((w for w in WRAPPERS if stripped and all(key.startswith(w) for key in stripped)), None):
        stripped = {key.removeprefix(prefix): value for key, value in stripped.items()}
        removed += prefix
        if wanted & stripped.keys():
            return stripped, f"stripped {removed!r}"
    for prefix in WRAPPERS:
        if all(key.startswith(prefix) for key in wanted):
            inner, done = match_prefix(stripped, {key.removeprefix(prefix) for key in wanted})
            added = {prefix + key: value for key, value in inner.items()}
            if wanted & added.keys():
                return added, f"{done + ', ' if done else ''}added {prefix!r}"
    return state_dict, ""
