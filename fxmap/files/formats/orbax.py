"""Folders of orbax, in which JAX's libraries save trees of arrays, read by orbax where it is installed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fxmap.errors import CheckpointError
from fxmap.files.arrays import dtype_of, library, tensor_of, weights_of
from fxmap.files.format import Format, reason_of


def _read(path: Path) -> Mapping[str, Any]:
    checkpoint = library("orbax.checkpoint", "orbax-checkpoint", path)
    try:
        tree = checkpoint.PyTreeCheckpointer().restore(path.parent.absolute())
        found = weights_of(_named(tree))
        arrays = {name: np.asarray(value) for name, value in found.items() if hasattr(value, "shape")}
        tensors: dict[str, Tensor] = {name: tensor_of(each) for name, each in arrays.items() if dtype_of(each.dtype)}
    except Exception as error:  # whatever orbax and the libraries under it raise
        raise CheckpointError(f"{path.parent}: not a readable checkpoint of orbax: {reason_of(error)}") from error
    return tensors


def _named(tree: Any) -> dict[str, Any]:
    """Return a tree of dicts and lists as dicts, whose names are the numbers of lists."""
    pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return {str(key): _named(value) if isinstance(value, Mapping | list | tuple) else value for key, value in pairs}


ORBAX = Format(
    name="orbax",
    suffixes=("_METADATA",),
    holds="trees of arrays, in a folder",
    read=_read,
)
