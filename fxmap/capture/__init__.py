"""Capture: from a model to an fx graph of functions, by the highest rung of the ladder that works.

Symbolic tracing comes first: it needs no inputs, and its graph holds for all of them. What it cannot trace is recorded in a
run on example inputs; both models then, so that their graphs speak of the same operations. What does not run either is
mapped by names and shapes.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from fxmap.capture.recorded import record
from fxmap.capture.replica import named_tensors, unchanged
from fxmap.capture.symbolic import trace
from fxmap.graph import OpGraph, build
from fxmap.normalize import Fold, normalize

if TYPE_CHECKING:
    from fxmap.inputs import Inputs


@dataclass(frozen=True)
class Captured:
    """A model as a graph.

    `module` is a replica in eval mode, `graph` its fx graph, `tensors` its parameters and buffers by path, and `rung` how
    the graph was captured. A recorded run also has the `constants` that its
    graph reads, and the `inputs` whose shapes it holds for. `fold` says what of the operation graph is folded.
    """

    module: nn.Module
    graph: fx.Graph
    tensors: dict[str, Tensor]
    rung: str = "symbolic trace"
    constants: dict[str, Tensor] = field(default_factory=dict)
    inputs: "Inputs | None" = None
    fold: Fold = field(default_factory=Fold)

    def arguments(self, inputs: "Inputs") -> list[Any]:
        """Return inputs in the order of the graph's placeholders."""
        if self.inputs is not None:
            return list(inputs.flat())
        names = [str(node.target) for node in self.graph.nodes if node.op == "placeholder"]
        named = dict(zip(names, inputs.args, strict=False)) | dict(inputs.kwargs)
        return [named[name] for name in names if name in named]

    @cached_property
    def ops(self) -> OpGraph:
        """The normalised operation graph, made when it is first asked for."""
        return normalize(build(self.graph, self.tensors), self.graph, self.tensors, self.constants, self.fold)

    @cached_property
    def read(self) -> frozenset[str]:
        """The paths of the tensors that the graph reads."""
        return frozenset(self.ops.keys())

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
        graph = trace(replica)
    replica.eval()
    return Captured(replica, graph, tensors)


def capture_run(replica: nn.Module, inputs: "Inputs") -> Captured:
    """Capture a replica by recording a run on inputs; it is switched to eval mode.

    Raises:
        CaptureError: it does not run on them.
    """
    replica.eval()
    tensors = _tensors(replica)
    with unchanged(replica):
        recording = record(replica, tensors, inputs)
    return Captured(replica, recording.graph, tensors, "recorded run", recording.constants, inputs)


def _tensors(replica: nn.Module) -> dict[str, Tensor]:
    return {path: getattr(owner, attribute) for path, owner, attribute in named_tensors(replica)}
