"""Models that no state dict can be taken of: they hold themselves, were never initialised, or name tensors by no text.

torch recurses into a module that is its own part until Python's stack ends, and says nothing of the place.

>>> loop = nn.Sequential(nn.Linear(2, 2))
>>> loop[0].owner = loop
>>> refuse_malformed([loop])
Traceback (most recent call last):
...
fxmap.errors.CaptureError: 0.owner: a module of a Sequential that holds this module itself, so that ...

Cost: linear in the number of modules; where `state_dict` is the user's own, one call of it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from fxmap.errors import CaptureError


def refuse_malformed(models: Iterable[nn.Module]) -> None:
    """Raise an error for a model whose modules, or whose state dict, are no tree of named tensors.

    Raises:
        CaptureError: a model is such; the message names the place.
    """
    for model in models:
        if not isinstance(model, torch.jit.ScriptModule):
            _refuse_loops(model)
            _refuse_nameless(model)


def _refuse_loops(model: nn.Module) -> None:
    """Walk the modules depth first: one that is met below itself is a loop, one that was left before is shared."""
    name = type(model).__name__
    above, left = set[int](), set[int]()
    way: list[tuple[str, nn.Module, bool]] = [("", model, False)]
    while way:
        path, module, ends = way.pop()
        if ends:
            above.discard(id(module))
            left.add(id(module))
            continue
        if id(module) in above:
            raise CaptureError(
                f"{path}: a module of a {name} that holds this module itself, so that its state dict has no end. Keep a "
                "module that is above another one out of its attributes: in a list, [module], torch does not register it"
            )
        if id(module) in left or isinstance(module, torch.jit.ScriptModule):
            continue
        parts = vars(module).get("_modules")
        if parts is None:
            raise CaptureError(
                f"{path or 'the model itself'}: a {type(module).__name__} that has no modules and parameters: its __init__ "
                "does not call super().__init__()"
            )
        if type(module).__hash__ is None:
            raise CaptureError(
                f"{path or 'the model itself'}: a {type(module).__name__} has no hash, by which torch tells modules apart: "
                "its class defines __eq__ without __hash__"
            )
        above.add(id(module))
        way.append((path, module, True))
        way += [(f"{path}.{part}" if path else part, own, False) for part, own in parts.items() if own is not None]


def _refuse_nameless(model: nn.Module) -> None:
    """Look at a state dict that is not made by torch alone."""
    if type(model).state_dict is nn.Module.state_dict and not model._state_dict_hooks:
        return
    state: Any = model.state_dict()
    name = type(model).__name__
    if not isinstance(state, Mapping):
        raise CaptureError(f"state_dict() of a {name} returns a {type(state).__name__}, and no dict of tensors")
    stranger = next((key for key in state if not isinstance(key, str)), "")
    if stranger != "":
        raise CaptureError(f"state_dict() of a {name} has the key {stranger!r}, which is no text")
