"""The state dict that a mapping is applied to: as it is given, of a file, or of tensors that lie on several ranks.

>>> list(opened_state({"fc.weight": 1}, "load_into"))
['fc.weight']
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxmap.errors import LoadError
from fxmap.files.checkpoint import open_checkpoint
from fxmap.files.layouts import dense
from fxmap.mapping.given import given_state
from fxmap.mapping.sharded import is_dtensor


def opened_state(source: Any, function: str) -> Mapping[str, Any]:
    """Return a state dict, or that of a file with lazy tensors; of DTensors what this rank holds, where that is all.

    Raises:
        ArgumentError: it is neither. CheckpointError: the file cannot be read. LoadError: other ranks hold parts.
    """
    if isinstance(source, str | Path):
        return open_checkpoint(source, lazy=True).state
    state = dense(given_state(source, function))
    distributed = {key: _whole(key, value, function) for key, value in state.items() if is_dtensor(value)}
    return {**state, **distributed} if distributed else state


def _whole(key: str, value: Any, function: str) -> Any:
    """Return a DTensor as a tensor. Its parts are not gathered: ranks that do not take part would wait for ever."""
    if value.device_mesh.size() > 1 and not all(placement.is_replicate() for placement in value.placements):
        raise LoadError(
            f"{key}: a DTensor, of which other ranks hold parts ({value.placements}). Nothing was written; gather it on all "
            f"ranks first, {{key: value.full_tensor() for key, value in state.items()}}, or give {function} the path of a "
            "checkpoint, of which every rank reads what it needs"
        )
    return value.detach().to_local()
