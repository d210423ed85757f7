"""Capture: from a model to an fx graph of functions, by the highest rung of the ladder that works.

Symbolic tracing comes first: it needs no inputs, and its graph holds for all of them. What it cannot trace is recorded in a
run on example inputs; both models then, so that their graphs speak of the same operations. What does not run either is
mapped by names and shapes.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn

from fxmap.capture.recorded import record
from fxmap.capture.symbolic import trace
from fxmap.model.inputs import Inputs
from fxmap.model.replica import named_tensors, unchanged


@dataclass(frozen=True)
class Captured:
    """A model as a graph.

    `module` is a replica in eval mode, `graph` its fx graph, `tensors` its parameters and buffers by path, and `rung` how
    the graph was captured. `constants` are the other tensors that the graph reads, and `returned` the nodes that the calls
    of every module returned, by its path; a recorded run also has the `inputs` whose shapes it holds for.
    """

    module: nn.Module
    graph: fx.Graph
    tensors: dict[str, Tensor]
    rung: str = "symbolic trace"
    constants: dict[str, Tensor] = field(default_factory=dict)
    inputs: Inputs | None = None
    returned: dict[str, list[str]] = field(default_factory=dict)

    def arguments(self, inputs: Inputs) -> list[Any]:
        """Return inputs in the order of the graph's placeholders."""
        if self.inputs is not None:
            return list(inputs.flat())
        names = [str(node.target) for node in self.graph.nodes if node.op == "placeholder"]
        named = dict(zip(names, inputs.args, strict=False)) | dict(inputs.kwargs)
        return [named[name] for name in names if name in named]

    @cached_property
    def canonical(self) -> dict[str, str]:
        """For every path of a tensor, the path under which the graph reads it: the first one where it is shared."""
        first: dict[int, str] = {}
        return {path: first.setdefault(id(tensor), path) for path, tensor in self.tensors.items()}


def capture(replica: nn.Module, *, auxiliary: bool = False) -> Captured:
    """Capture a replica by symbolic tracing; it is switched to eval mode.

    With `auxiliary`, containers stay in training mode: the graph then has the heads that exist in training only, while
    norms and dropout behave as in eval.

    Raises:
        CaptureError: it cannot be traced.
    """
    replica.eval()
    if auxiliary:
        for module in replica.modules():
            module.training = bool(module._modules)
    tensors = _tensors(replica)
    with unchanged(replica):
        traced = trace(replica)
        # Tensors that forward makes are attributes of the replica from now on, and are taken off it again.
        made = {str(node.target) for node in traced.graph.nodes if node.op == "get_attr"} - tensors.keys()
        constants = {name: value for name in made if isinstance(value := vars(replica).get(name), Tensor)}
    replica.eval()
    return Captured(replica, traced.graph, tensors, constants=constants, returned=traced.returned)


def capture_run(replica: nn.Module, inputs: Inputs) -> Captured:
    """Capture a replica by recording a run on inputs; it is switched to eval mode.

    Raises:
        CaptureError: it does not run on them.
    """
    replica.eval()
    tensors = _tensors(replica)
    with unchanged(replica):
        recording = record(replica, tensors, inputs)
    return Captured(replica, recording.graph, tensors, "recorded run", recording.constants, inputs, recording.returned)


def _tensors(replica: nn.Module) -> dict[str, Tensor]:
    return {path: getattr(owner, attribute) for path, owner, attribute in named_tensors(replica)}
