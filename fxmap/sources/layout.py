"""Images with channels last: files of Keras, TensorFlow and JAX take them so, and torch's models take channels first.

Such a file is given its images as the other model takes them, and turns them itself, where that model does not run on the
shapes that the file declares, but on turned ones.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fxmap.model.inputs import as_inputs
from fxmap.model.memory import on_own_memory
from fxmap.model.replica import replicate
from fxmap.model.restoring import let_through
from fxmap.sources.onnx.model import OnnxModel


def in_one_layout(model: nn.Module, inputs: Any, other: Any, example_inputs: Any) -> Any:
    """Let a file take its images in the layout that another model has, or that given inputs have; return its own inputs.

    Cost: a forward pass of the other model where the file declares images with channels last, and no inputs are given.
    """
    if not isinstance(model, OnnxModel) or model.channels_first or not model.images:
        return inputs
    if example_inputs is not None:
        given = as_inputs(example_inputs).flat()
        if not model.fits(given):
            model.channels_first = True
            model.channels_first = model.fits(given)
        return inputs
    if not isinstance(other, nn.Module) or _takes(other, inputs):
        return inputs
    model.channels_first = True
    turned_inputs = tuple(model.example_inputs().values())
    model.channels_first = _takes(other, turned_inputs)
    return turned_inputs if model.channels_first else inputs


def turned(*models: object) -> str:
    """Return a sentence on files whose images are given with channels first; empty where there are none.

    >>> turned(nn.Linear(2, 2))
    ''
    """
    names = [name for model in models if isinstance(model, OnnxModel) and model.channels_first for name in model.images]
    given = "here it is given with channels first, as the other model has it"
    return f"the file takes {', '.join(names)} with channels last; {given}" if names else ""


def _takes(model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether a model runs on some inputs; it is left as it is."""
    twin = replicate(model).eval()
    try:
        with torch.no_grad():
            on_own_memory(twin, lambda: as_inputs(inputs).call(twin))
    except Exception as error:  # whatever the code of a model raises on inputs that do not fit
        let_through(error)
        return False
    return True
