"""An attack: one hostile input, made from a seed, and what is asked of fxmap for it.

It is survived if fxmap answers rightly or raises an error of its own, and leaves models, files and the process as they were.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxmap

# Makes an input from a random generator in an empty folder, tries it, and returns what went wrong; empty where nothing did.
Try = Callable[[random.Random, Path], str]


@dataclass(frozen=True, slots=True)
class Attack:
    """A kind of attack: its name, what must hold in words, and the function that tries one."""

    name: str
    holds: str
    try_one: Try


def model() -> nn.Module:
    """Return a small network with a buffer of integers, the same at every call."""
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
    return nn.Sequential(*layers).eval()


def load_or_refuse(load: Callable[[nn.Module], object]) -> str:
    """Load into a new model: fxmap's own error leaves it as it was; any other is a failure."""
    dst = model()
    before = copies(dst.state_dict())
    try:
        load(dst)
    except fxmap.FxmapError as error:
        if not str(error).strip():
            return "an error without words"
        return "" if same(before, dst.state_dict()) else "refused, and half written"
    except Exception as error:
        return raw(error)
    return ""


def raw(error: BaseException) -> str:
    """Describe an exception that is not fxmap's own."""
    return f"{type(error).__name__}: {error}"[:200]


def copies(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of the tensors of a state dict."""
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two state dicts of plain tensors are equal, NaN included."""
    return one.keys() == other.keys() and all(
        value.dtype == other[key].dtype and torch.equal(torch.nan_to_num(value), torch.nan_to_num(other[key]))
        for key, value in one.items()
    )
