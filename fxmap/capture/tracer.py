"""The tracer: torch.fx's, down to functions, without its patches of `nn.Module`.

torch.fx replaces `nn.Module.__call__` and `__getattr__` of the whole process while it traces, and every other thread that
runs a model meanwhile gets its proxies. Here the modules of the replica themselves say that they are traced: each has an
attribute `_call_impl` of its own, which `nn.Module` calls, and a dict of parameters that gives proxies. Functions of `math`
and those that users declared by `torch.fx.wrap` are still replaced for the time of a trace, in one thread at a time; their
replacements call the functions as they are wherever no proxy is passed.
"""

import functools
import operator
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import fx, nn
from torch.fx import _symbolic_trace as torch_fx
from torch.fx.proxy import ParameterProxy

from fxmap.capture.eager import Eager
from fxmap.errors import CaptureError
from fxmap.model.replica import named_tensors
from fxmap.model.restoring import begin, carry_out, finish

# Held while functions in the globals of modules are replaced, or put back: two at once would undo each other's.
REPLACING = threading.RLock()

# A model of 5,000 layers has some 50,000.
_MOST_NODES = 300_000


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
        self.count = 0
        self.eager = Eager(self._paths)

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Trace the forward of a replica; unlike torch.fx, without a change that another thread can see in its models."""
        self.root, self.graph = root, fx.Graph(tracer_cls=type(self))
        self.root_module_name = root._get_name()
        self.submodule_paths = {module: path for path, module in root.named_modules()}
        self.tensor_attrs = {
            value: f"{path}.{name}" if path else name
            for path, module in root.named_modules()
            for name, value in vars(module).items()
            if isinstance(value, torch_fx._constant_attribute_types)
        }
        forward = type(root).forward
        called, args = self.create_args_for_root(forward, True, concrete_args)
        with (
            REPLACING,
            self.eager,
            _said_to_trace(),
            _wrapped(self._autowrap_search, self._autowrap_function_ids) as wrap,
            _traced(self, root, wrap),
        ):
            wrap(getattr(forward, "__globals__", {}))
            self.create_node("output", "output", (self.create_arg(called(*args)),), {})
        return self.graph

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Add a node, up to a limit: a loop that proxies do not end would fill the memory.

        Raises:
            CaptureError: there are too many.
        """
        self.count += 1
        if self.count > _MOST_NODES:
            raise CaptureError(f"forward has more than {_MOST_NODES:,} operations, or a loop that does not end in a trace")
        return super().create_node(*args, **kwargs)

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
        origin = self.eager.origin(a) if isinstance(a, torch.Tensor) else ""
        if origin:
            raise CaptureError(
                f"it computes with {origin} where torch.fx does not see it, so that a trace has a constant there"
            )
        return super().create_arg(a)


def _said_to_trace() -> AbstractContextManager[None]:
    """Tell torch that this thread traces; in releases where that would be told of all threads, nothing is said."""
    context: AbstractContextManager[None] = getattr(torch_fx, "_is_fx_tracing_context", lambda _: nullcontext())(True)
    return context


class _Proxied(dict[str, Any]):
    """A module's parameters: an attribute that is read is a proxy; the dict's values are the parameters themselves."""

    def __init__(self, own: Mapping[str, Any], proxy: Callable[[str, Any], Any]) -> None:
        super().__init__(own)
        self.proxy = proxy

    def __getitem__(self, name: str) -> Any:
        return self.proxy(name, super().__getitem__(name))


@contextmanager
def _traced(tracer: FunctionTracer, root: nn.Module, wrap: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Let every module of a replica tell the tracer that it is called, or that a parameter of it is read."""
    proxies: dict[str, Any] = {}

    def call(module: nn.Module, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        wrap(getattr(getattr(module, "forward", module), "__globals__", {}))
        return tracer.call_module(module, original, args, kwargs)

    def proxy(name: str, value: Any) -> Any:
        return tracer.getattr(name, value, proxies)

    kept = [(vars(module), module._parameters) for module in root.modules()]
    try:
        for module in root.modules():
            own = vars(module)
            own["_call_impl"] = functools.partial(call, module, module._call_impl)
            own["_parameters"] = _Proxied(module._parameters, proxy)
        yield
    finally:
        carry_out(functools.partial(_untrace, own, parameters) for own, parameters in kept)


def _untrace(own: dict[str, Any], parameters: dict[str, Any]) -> None:
    own.pop("_call_impl", None)
    if isinstance(own["_parameters"], _Proxied):
        now = dict(own["_parameters"].items())
        if now.keys() != parameters.keys():  # forward registered one, or removed one
            parameters.clear()
            parameters.update(now)
        own["_parameters"] = parameters


@contextmanager
def _wrapped(searched: Any, functions: set[int]) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Replace functions of `math`, and those of torch.fx.wrap; yields a function that does so in other globals."""
    patcher = torch_fx._Patcher()

    def wrap(names: dict[str, Any]) -> None:
        torch_fx._autowrap_check(patcher, names, functions)

    def revert() -> None:
        carry_out(_revert(patch) for patch in reversed(list(patcher.patches_made)))

    begin(revert)
    try:
        torch_fx._patch_wrapped_functions(patcher)
        for module in searched:
            wrap(vars(module))
        yield wrap
    finally:
        finish(revert)


def _revert(patch: Any) -> Callable[[], None]:
    def revert() -> None:
        if not isinstance(patch, torch_fx._PatchedFnDel) or patch.fn_name in patch.frame_dict:
            patch.revert()

    return revert
