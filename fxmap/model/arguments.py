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


def refuse_other_kind(name: str, value: object, kinds: type | tuple[type, ...], what: str) -> None:
    """Raise an error where an argument is of another kind; `what` says of which it is.

    Raises:
        ArgumentError: with what was given.

    >>> refuse_other_kind("into", 5, str, "the path of a submodule, such as 'backbone'")
    Traceback (most recent call last):
        ...
    fxmap.errors.ArgumentError: into is the path of a submodule, such as 'backbone', not an int
    """
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is int):
        kind = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        article = "" if isinstance(value, type) else "an " if kind[0].lower() in "aeiou" else "a "
        raise ArgumentError(f"{name} is {what}, not {article}{kind}")
