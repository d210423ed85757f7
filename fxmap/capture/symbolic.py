"""Symbolic tracing by torch.fx, down to functions: the source of graphs that needs no inputs.

No module is a leaf: a convolution becomes a call of `torch.conv2d` whose weight is a `get_attr` node. So every parameter is
a node of its own, modules and functions give the same operations, and the graph can be run with any weights.
The only leaves are the stubs that mark where a quantized region begins and ends.
"""

import inspect
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

import fxmap.errors as fxmap_errors
from fxmap.capture.captured import Captured
from fxmap.capture.faithful import unfaithful
from fxmap.capture.source import GraphSource
from fxmap.capture.tracer import FunctionTracer
from fxmap.errors import CaptureError
from fxmap.model.faults import said
from fxmap.model.inputs import Inputs
from fxmap.model.memory import on_own_memory
from fxmap.model.replica import tensors_by_path, unchanged
from fxmap.model.restoring import let_through


@dataclass(frozen=True)
class Traced:
    """A graph, and for every module, by its path, the names of the nodes that its calls returned."""

    graph: fx.Graph
    returned: dict[str, list[str]] = field(default_factory=dict)


def capture_symbolic(replica: nn.Module, _: Inputs | None = None, *, training_heads: bool = False) -> Captured:
    """Capture a replica by symbolic tracing; the replica is switched to eval mode.

    With `training_heads`, containers stay in training mode: the graph then has the heads that exist in training only, while
    norms and dropout behave as in eval mode.

    Raises:
        CaptureError: the replica cannot be traced.
    """
    replica.eval()
    if training_heads:
        for module in replica.modules():
            module.training = bool(module._modules)
    tensors = tensors_by_path(replica)
    with unchanged(replica):
        traced = on_own_memory(replica, lambda: trace(replica))
        # The trace stores tensors that forward creates as attributes of the replica; they are removed afterwards.
        made = {str(node.target) for node in traced.graph.nodes if node.op == "get_attr"} - tensors.keys()
        constants = {name: value for name in made if isinstance(value := vars(replica).get(name), Tensor)}
    replica.eval()
    return Captured(replica, traced.graph, tensors, SYMBOLIC.name, constants, returned=traced.returned)


SYMBOLIC = GraphSource("symbolic trace", capture_symbolic)


def trace(replica: nn.Module) -> Traced:
    """Trace a replica symbolically. Optional arguments of forward keep their defaults.

    Raises:
        CaptureError: forward cannot be traced; the message names the file and line of the code that prevents it, or hooks
            of the model itself.
    """
    if replica._forward_hooks or replica._forward_pre_hooks:
        # They are part of the model's computation, and torch.fx begins at forward.
        raise CaptureError(f"{type(replica).__name__} has forward hooks of its own, which torch.fx does not trace")
    scripted = next((path for path, part in replica.named_modules() if isinstance(part, torch.jit.ScriptModule)), None)
    if scripted is not None:
        raise CaptureError(f"{scripted or 'the model itself'} is a module of TorchScript, which torch.fx does not trace")
    for module in replica.modules():
        if hasattr(type(module), "_check_input_dim"):
            # A check of the number of dimensions, which a proxy does not have; removed from the replica alone.
            vars(module)["_check_input_dim"] = lambda input: None
    before = [(path, buffer, buffer._version) for path, buffer in replica.named_buffers()]
    try:
        tracer = FunctionTracer(replica)
        graph = tracer.trace(replica, concrete_args=_defaults(replica))
    except Exception as error:  # whatever the user's forward raises on proxies
        let_through(error)
        raise CaptureError(f"torch.fx cannot trace {type(replica).__name__}: {_place(error)}{said(error)}") from error
    reason = unfaithful(graph, tracer.augmented) or _written_state(replica, before, graph)
    if reason:
        raise CaptureError(f"a trace by torch.fx is not what {type(replica).__name__} computes: {reason}")
    return Traced(graph, tracer.returned)


def _written_state(replica: nn.Module, before: list[tuple[str, Tensor, int]], graph: fx.Graph) -> str:
    """Return the reason why a trace is wrong about a buffer that forward writes to; empty where it is not."""
    now = dict(replica.named_buffers())
    written = [path for path, buffer, version in before if now.get(path) is not buffer or buffer._version != version]
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    found = next((path for path in written if path in read or any(name.startswith(_MADE) for name in read)), "")
    return found and f"it writes in place to its buffer {found}, which the trace reads, or makes a constant of"


# How torch.fx names tensors that code makes while it is traced.
_MADE = "_tensor_constant"


def _defaults(model: nn.Module) -> dict[str, Any]:
    parameters = inspect.signature(model.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.kind is not p.KEYWORD_ONLY}


def _place(error: BaseException) -> str:
    """Name the file and line of the user's own code, outside of torch and of this library, that raised an error."""
    place = ""
    step = error.__traceback__
    # Not traceback.extract_tb, which fails on the code objects that torch.fx makes in older releases.
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if not file.startswith(_OURS):
            place = f"{file}:{step.tb_lineno}: "
        step = step.tb_next
    return place


_OURS = tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, fxmap_errors.__file__))
