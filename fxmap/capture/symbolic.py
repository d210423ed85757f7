"""Symbolic tracing by torch.fx, down to functions: the source of graphs that needs no inputs.

No module is a leaf: a convolution becomes a call of `torch.conv2d` whose weight is a `get_attr` node. So every parameter is
a node of its own, modules and functions give the same operations, and the graph can be run with any weights.
The only leaves are the stubs that mark where a quantized region begins and ends.
"""

import inspect
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import ParameterProxy

import fxmap.errors as fxmap_errors
from fxmap.capture.captured import Captured
from fxmap.capture.faithful import unfaithful
from fxmap.capture.source import GraphSource
from fxmap.errors import CaptureError
from fxmap.model.inputs import Inputs
from fxmap.model.replica import named_tensors, tensors_by_path, unchanged


class AssignedProxy(fx.Proxy):
    """A proxy that notes augmented assignments: `x += y` is traced as `x + y`, but changes x in place when it runs."""


def _augmented(name: str) -> Callable[[fx.Proxy, Any], Any]:
    def assign(self: fx.Proxy, other: Any) -> Any:
        result = getattr(operator, name)(self, other)
        if isinstance(result, fx.Proxy) and isinstance(self.tracer, FunctionTracer):
            self.tracer.augmented[result.node] = self.node
        return result

    return assign


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor", "lshift", "rshift"):
    setattr(AssignedProxy, f"__i{_name.rstrip('_')}__", _augmented(_name))


class FunctionTracer(fx.Tracer):
    """A tracer that enters every module except quantization stubs."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__(param_shapes_constant=True)
        self._paths: dict[int, str] = {}
        for path, module, attribute in named_tensors(root):
            self._paths.setdefault(id(getattr(module, attribute)), path)
        self.returned: dict[str, list[str]] = {}
        self.augmented: dict[fx.Node, fx.Node] = {}

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return AssignedProxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__name__ in ("QuantStub", "DeQuantStub") and type(m).__module__ == "torch.ao.quantization.stubs"

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Trace the call of a module, and note the node that it returns: the graph itself does not tell."""
        value = super().call_module(m, forward, args, kwargs)
        returned = self.returned.setdefault(self.path_of_module(m), [])
        if isinstance(value, fx.Proxy):
            returned.append(value.node.name)
        return value

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        # As below: torch.fx would search all parameters for each one that is read.
        if not isinstance(attr_val, nn.Parameter) or id(attr_val) not in self._paths:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        path = self._paths[id(attr_val)]
        if path not in parameter_proxy_cache:
            parameter_proxy_cache[path] = self.create_proxy(
                "get_attr", path, (), {}, proxy_factory_fn=lambda node: ParameterProxy(self, node, path, attr_val)
            )
        return parameter_proxy_cache[path]

    def create_arg(self, a: Any) -> Any:
        # torch.fx searches all tensors of the model for each one that is used; this is the same, in constant time.
        if isinstance(a, torch.Tensor) and id(a) in self._paths:
            return self.create_node("get_attr", self._paths[id(a)], (), {})
        return super().create_arg(a)


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
        traced = trace(replica)
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
    for module in replica.modules():
        if hasattr(module, "_check_input_dim"):
            # A check of the number of dimensions, which a proxy does not have; removed from the replica alone.
            vars(module)["_check_input_dim"] = lambda input: None
    before = [(path, buffer, buffer._version) for path, buffer in replica.named_buffers()]
    try:
        tracer = FunctionTracer(replica)
        graph = tracer.trace(replica, concrete_args=_defaults(replica))
    except Exception as error:  # whatever the user's forward raises on proxies
        raise CaptureError(f"torch.fx cannot trace {type(replica).__name__}: {_place(error)}{error}") from error
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
