"""Versions: those of the destination's modules, which torch asks for when it loads a state dict.

A module may upgrade state dicts that an older version of it wrote, and takes one without a version for the oldest. What a
mapping makes has the form of the destination as it is, and says so, as the destination's own state dict does.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn


def versions_of(model: nn.Module) -> dict[str, int]:
    """Return the version of each module of a model, by path, as its state dict has them.

    >>> versions_of(nn.Sequential(nn.BatchNorm1d(2)))
    {'': 1, '0': 2}
    """
    known = getattr(model.state_dict(), "_metadata", None) or {}
    return {path: version for path, held in known.items() if isinstance(version := held.get("version"), int)}


def with_versions(state: "OrderedDict[str, Any]", versions: Mapping[str, int]) -> "OrderedDict[str, Any]":
    """Give a state dict the metadata that `load_state_dict` asks for; none where no version is known.

    >>> dict(with_versions(OrderedDict(), {"": 1})._metadata)
    {'': {'version': 1}}
    """
    if versions:
        state._metadata = OrderedDict((path, {"version": version}) for path, version in versions.items())  # type: ignore[attr-defined]
    return state
