"""Arguments that are models, looked at where a call begins: a class, a path or a state dict is called by its name."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from fxmap.errors import ArgumentError


def refuse_no_model(name: str, value: object, instead: str) -> None:
    """Raise an error where an argument is no model; `instead` says what is called with files and state dicts.

    Raises:
        ArgumentError: with what was given, and the next step.

    >>> refuse_no_model("dst", nn.Linear, "")
    Traceback (most recent call last):
        ...
    fxmap.errors.ArgumentError: dst is a model (torch.nn.Module), not the class Linear: make one of it, Linear(...)
    """
    if isinstance(value, nn.Module):
        return
    if isinstance(value, type):
        raise ArgumentError(
            f"{name} is a model (torch.nn.Module), not the class {value.__name__}: make one of it, {value.__name__}(...)"
        )
    what = type(value).__name__
    if isinstance(value, str | Path):
        what = f"the path {str(value)!r}"
    elif isinstance(value, Mapping):
        what = f"a {type(value).__name__} of {len(value)} keys, such as a state dict"
    raise ArgumentError(f"{name} is a model (torch.nn.Module), not {what}{f'. {instead}' if instead else ''}")
