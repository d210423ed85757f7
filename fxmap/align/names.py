"""No graph: equal names and shapes. A guess, and said to be one."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fxmap.checkpoint import match_prefix
from fxmap.expressions import Expression, Source
from fxmap.knowledge import Knowledge
from fxmap.mapping import KeyMapping
from fxmap.proof import Status


def map_by_name(src: Mapping[str, Any], dst: Mapping[str, Any], why: str) -> KeyMapping:
    """Map keys of equal name and shape, wrapper prefixes apart. Linear time.

    >>> import torch
    >>> map_by_name({"module.a": torch.zeros(2)}, {"a": torch.zeros(2)}, "no model").status("a")
    <Status.GUESSED: 'guessed'>
    """
    state, prefix = match_prefix(src, set(dst))
    expressions: dict[str, Expression] = {}
    statuses: dict[str, Status] = {}
    for key, value in dst.items():
        other = state.get(key)
        same = isinstance(value, Tensor) and isinstance(other, Tensor) and other.shape == value.shape
        if same:
            expressions[key] = Source(key)
        statuses[key] = Status.GUESSED if same else Status.MISSING
    knowledge = Knowledge(
        statuses=statuses,
        unexpected=tuple(key for key in state if key not in expressions),
        notes=(f"no graph, keys are mapped by equal name and shape: {why}", *([prefix] if prefix else [])),
        rungs=("names", "names"),
    )
    return KeyMapping(expressions, knowledge)
