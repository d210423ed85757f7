"""Shapes of the inputs of average pooling, and masks among the inputs, for traced graphs, which hold neither.

An average over a window as large as the feature map is a mean, and whether it is depends on the size of the inputs. So if
inputs were given, a traced graph with such an operation is run once on them, and the shapes are noted in `node.meta`.

>>> from torch import nn
>>> from fxmap.capture.symbolic import capture_symbolic
>>> from fxmap.model.inputs import as_inputs
>>> captured = capture_symbolic(nn.Sequential(nn.Tanh(), nn.AvgPool2d(4)))
>>> note_pooled(captured, as_inputs(torch.randn(1, 2, 4, 4)))
>>> {node.name: node.meta["shape"] for node in captured.graph.nodes if "shape" in node.meta}
{'tanh': (1, 2, 4, 4), 'avg_pool2d': (1, 2, 1, 1)}

Cost: one forward pass if there is such an operation, else nothing.
"""

from typing import Any

import torch
from torch import Tensor, fx

from fxmap.capture.captured import Captured
from fxmap.graph.kinds import kind_of
from fxmap.model.inputs import Inputs
from fxmap.model.restoring import let_through
from fxmap.run.interpreter import ValueInterpreter


def note_masks(captured: Captured, inputs: Inputs) -> None:
    """Note which inputs of a traced graph are true or false: of these, `~m` is `m == 0`.

    >>> from torch import nn
    >>> from fxmap.capture.symbolic import capture_symbolic
    >>> from fxmap.model.inputs import as_inputs
    >>> captured = capture_symbolic(nn.Identity())
    >>> note_masks(captured, as_inputs(torch.tensor([True])))
    >>> [node.meta.get("dtype") for node in captured.graph.nodes]
    [torch.bool, None]
    """
    given = [node for node in captured.graph.nodes if node.op == "placeholder"]
    named = dict(zip((str(node.target) for node in given), inputs.args, strict=False)) | dict(inputs.kwargs)
    for node in given:
        value = named.get(str(node.target))
        if isinstance(value, Tensor) and value.dtype is torch.bool:
            node.meta["dtype"] = torch.bool


def note_pooled(captured: Captured, inputs: Inputs) -> None:
    """Note the shapes of inputs and outputs of average pooling; nothing is noted if the model does not run on the inputs."""
    pools = [node for node in captured.graph.nodes if node.op.startswith("call") and kind_of(node) == "avg_pool"]
    wanted = {*pools, *(part for node in pools for part in node.all_input_nodes)}
    if not wanted:
        return

    def hook(node: fx.Node, value: Any) -> Any:
        if node in wanted and isinstance(value, Tensor):
            node.meta["shape"] = tuple(value.shape)
        return value

    try:
        with torch.no_grad():
            ValueInterpreter(captured, captured.tensors, hook).run(*captured.arguments(inputs))
    except Exception as error:  # whatever a model raises on inputs that do not fit it: the proof will say so
        let_through(error)
        return
