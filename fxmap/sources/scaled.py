"""Images that a file scales by itself, where the other model takes them scaled: the file is run from there on.

>>> from torch import nn
>>> scales_itself(nn.Conv2d(3, 4, 3), torch.ones(1, 3, 8, 8))
False
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxmap.model.dispatch import DispatchMode
from fxmap.model.inputs import as_inputs
from fxmap.model.memory import on_own_memory
from fxmap.model.replica import replicate
from fxmap.model.restoring import let_through
from fxmap.model.tensors import tensors_of
from fxmap.sources.onnx.model import OnnxModel

_ARITHMETIC = {"add", "addcdiv", "addcmul", "div", "mul", "rsub", "sub", "true_divide"}
# What moves numbers, or makes others of them for the whole network: what is read behind it is read of the image.
_MOVING = {"_to_copy", "clone", "constant_pad_nd", "contiguous", "lift_fresh"}


def begin_behind_scaling(file: OnnxModel, other: Any, inputs: Any) -> None:
    """Let a source take images as its own first operations would make them, where the other model scales none.

    Cost: a forward pass of the other model where the file scales its images, else nothing.
    """
    if inputs is None or not isinstance(other, nn.Module) or not file.scalings():
        return
    if scales_itself(other, inputs) is False:
        file.leave_out_scaling()


def scaled(*models: object) -> str:
    """Return a sentence on what files scale before they are compared; empty where there is nothing.

    >>> scaled(nn.Linear(2, 2))
    ''
    """
    shown = [str(one) for model in models if isinstance(model, OnnxModel) for one in model.left_out]
    told = "The destination does not, so that it is compared, and has to be called, with what comes of that"
    return f"the source scales its input first: {'; '.join(shown)}. {told}" if shown else ""


def scales_itself(model: nn.Module, inputs: Any) -> bool | None:
    """Whether a model begins by adding to its input, or multiplying it; None where it does not run on the inputs."""
    twin = replicate(model).eval()
    given = as_inputs(inputs)
    try:
        with torch.no_grad(), _Readers(tensors_of(list(given.flat()))) as readers:
            on_own_memory(twin, lambda: given.call(twin))
    except Exception as error:  # whatever the code of a model raises on inputs that do not fit
        let_through(error)
        return None
    return not _ARITHMETIC.isdisjoint(readers.names)


class _Readers(DispatchMode):
    """Notes which operations read some tensors, or views and copies of them."""

    def __init__(self, watched: list[Tensor]) -> None:
        super().__init__()
        self._watched = {id(one): one for one in watched}
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note it where it reads what is watched."""
        found = func(*args, **(kwargs or {}))
        if any(id(one) in self._watched for one in tree_leaves((args, kwargs))):
            name = func.overloadpacket.__name__.rstrip("_")
            moves = name in _MOVING or any(one.alias_info is not None for one in func._schema.returns)
            if moves and name not in _ARITHMETIC:
                self._watched |= {id(one): one for one in tree_leaves(found) if isinstance(one, Tensor)}
            else:
                self.names.add(name)
        return found
