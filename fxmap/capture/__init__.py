"""Capture: from a model to an fx graph of functions, by the highest rung of the ladder that works.

Today's ladder has one rung with a graph, symbolic tracing; a model that it cannot trace is mapped by names and shapes.
"""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, fx, nn

from fxmap.capture.replica import named_tensors
from fxmap.capture.symbolic import trace
from fxmap.graph import OpGraph, build
from fxmap.normalize import normalize


@dataclass(frozen=True)
class Captured:
    """A model as a graph.

    `module` is a replica in eval mode, `graph` its fx graph, `ops` the normalised operation graph, `tensors` its
    parameters and buffers by path, and `rung` how the graph was captured.
    """

    module: nn.Module
    graph: fx.Graph
    ops: OpGraph
    tensors: dict[str, Tensor]
    rung: str = "symbolic trace"

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
    """Capture a replica, which is switched to eval mode.

    With `auxiliary`, containers stay in training mode: the graph then has the heads that exist in training only, while
    norms and dropout behave as in eval.

    Raises:
        CaptureError: no rung works.
    """
    replica.eval()
    if auxiliary:
        for module in replica.modules():
            module.training = bool(module._modules)
    tensors = {path: getattr(owner, attribute) for path, owner, attribute in named_tensors(replica)}
    graph = trace(replica)
    replica.eval()
    return Captured(replica, graph, normalize(build(graph, tensors)), tensors)
