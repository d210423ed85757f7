"""Arrays of NumPy and of libraries that build on it, as lazy tensors under names of files.

>>> import numpy as np
>>> tensor_of(np.array([1, 2], dtype=">i2")), dtype_of(np.dtype("U3"))
(tensor([1, 2], dtype=torch.int16), None)
"""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxmap.errors import CheckpointError
from fxmap.files.lazy import materialise
from fxmap.files.limits import check_contents

# What training loops put beside the weights in files of JAX and Keras: moments of weights have the weights' shapes.
_OF_TRAINING = frozenset({"opt", "opt_state", "optimizer", "optimizer_state", "optimizer_weights"})


def dtype_of(dtype: "np.dtype[Any]") -> torch.dtype | None:
    """Return torch's name of a dtype, None for text, objects and records; bare 16 bits are bfloat16, as JAX saves it."""
    if dtype.name == "bfloat16" or (dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None):
        return torch.bfloat16
    found = getattr(torch, {"bool": "bool"}.get(dtype.name, dtype.name), None) if dtype.kind in "biufc" else None
    return found if isinstance(found, torch.dtype) else None


def tensor_of(array: "np.ndarray[Any, Any]") -> Tensor:
    """Return an array as a tensor with memory of its own, in this machine's order of bytes.

    Raises:
        ValueError: torch has no such dtype.
    """
    dtype = dtype_of(array.dtype)
    if dtype is None:
        raise ValueError(f"{array.dtype} is no dtype of tensors")
    if dtype is torch.bfloat16:
        bits = np.ascontiguousarray(array).view(np.int16)
        return torch.from_numpy(bits.copy()).view(torch.bfloat16).reshape(array.shape)
    own = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)
    return torch.from_numpy(own).reshape(array.shape)


def library(name: str, extra: str, path: Path) -> Any:
    """Import the library that reads a format.

    Raises:
        CheckpointError: it is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise CheckpointError(f"{path}: reading it needs the package {name}: pip install {extra}") from error


def weights_of(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Join the names of nested dicts by `/`, and leave the state of optimizers out.

    >>> sorted(weights_of({"params": {"fc": {"kernel": 1}}, "opt_state": {"0": {"kernel": 2}}, "opt/mu/kernel": 3}))
    ['params/fc/kernel']
    """
    return {name: value for name, value in _joined(tree, "") if not is_of_training(name)}


def is_of_training(name: str) -> bool:
    """Whether a name is that of an optimizer's state."""
    return name.partition("/")[0] in _OF_TRAINING


def _joined(tree: Mapping[Any, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        path = f"{before}{name}"
        if isinstance(value, Mapping):
            yield from _joined(value, f"{path}/")
        else:
            yield path, value


def numbers_of(lazy: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return lazy tensors with their numbers, after a check that these are not out of proportion to the file.

    Raises:
        CheckpointError: they are.
    """
    check_contents(lazy, str(path), path.stat().st_size)
    return {name: materialise(value) for name, value in lazy.items()}
