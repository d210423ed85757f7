"""Run a captured graph with other tensors in place of the model's own.

>>> from torch import nn
>>> from fxmap.capture.symbolic import capture_symbolic
>>> graph = capture_symbolic(nn.Sequential(nn.Linear(1, 1), nn.ReLU()))
>>> tensors = {"0.weight": torch.tensor([[3.0]]), "0.bias": torch.tensor([1.0])}
>>> ValueInterpreter(graph, tensors).run(torch.tensor([[2.0]])).item()
7.0

Cost: one forward pass; values that no later node reads are freed, as `fx.Interpreter` does.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._ops import OpOverload

from fxmap.capture.captured import Captured
from fxmap.graph.arguments import bind
from fxmap.graph.kinds import kind_of
from fxmap.model.extents import is_of_extents, widened

Hook = Callable[[fx.Node, Any], Any]


class ValueInterpreter(fx.Interpreter):
    """Interprets a captured graph with given tensors in place of the model's own.

    Batch norm is written out, since torch does not differentiate it by its running statistics, and nothing is computed in
    place, since values are kept. `hook(node, value)` is called with every value, and returns the value to continue with.
    """

    def __init__(self, captured: Captured, tensors: Mapping[str, Tensor], hook: Hook | None = None) -> None:
        super().__init__(captured.module, graph=captured.graph)
        self.tensors = tensors
        self.constants = captured.constants
        self.dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float64)
        self.hook = hook
        self._norms: dict[fx.Node, bool] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and pass its value to the hook."""
        norm = self._is_norm(n)
        value: Any = self._batch_norm(n) if norm else self._run(n)
        if norm and isinstance(n.target, OpOverload) and len(n.target._schema.returns) > 1:
            # aten also returns the batch statistics, which are empty in eval mode.
            value = (value, value.new_empty(0), value.new_empty(0))
        return value if self.hook is None else self.hook(n, value)

    def _is_norm(self, n: fx.Node) -> bool:
        if n not in self._norms:
            self._norms[n] = n.op == "call_function" and kind_of(n) == "batch_norm"
        return self._norms[n]

    def _run(self, n: fx.Node) -> Any:
        """Run a node as torch does, without its notes for errors, which take longer than many operations."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return getattr(self, n.op)(n.target, args, kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a function out of place; a dtype of float32 that the model sets itself is replaced by that of the tensors."""
        if kwargs.get("inplace"):
            kwargs = kwargs | {"inplace": False}
        if kwargs.get("dtype") is torch.float32 and isinstance(target, OpOverload):
            kwargs = kwargs | {"dtype": self.dtype}
        elif kwargs.get("dtype") is torch.complex64 and isinstance(target, OpOverload):
            kwargs = kwargs | {"dtype": self.dtype.to_complex()}
        value = super().call_function(_OUT_OF_PLACE.get(target, target), args, kwargs)
        return super().call_function(target, widened(args, self.dtype), kwargs) if is_of_extents(value, args) else value

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a method, out of place; a cast to float32 is one to the dtype of the tensors, as in `call_function`."""
        if target == "float":
            target, args = "to", (*args, self.dtype)
        elif target in ("to", "type"):
            args = tuple(self.dtype if part is torch.float32 else part for part in args)
            kwargs = {name: self.dtype if part is torch.float32 else part for name, part in kwargs.items()}
        pure = target.rstrip("_") if isinstance(target, str) and not target.startswith("__") else target
        return super().call_method(pure if hasattr(args[0], pure) else target, args, kwargs)

    def fetch_attr(self, target: str) -> Any:
        """Return the tensor to use for a path; constants of the graph are cast to the dtype of the given tensors."""
        if target in self.tensors:
            return self.tensors[target]
        value = self.constants[target] if target in self.constants else super().fetch_attr(target)
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(next((t.dtype for t in self.tensors.values() if t.is_floating_point()), value.dtype))
        return value

    def before_batch_norm(self, node: fx.Node, value: Tensor) -> None:
        """Do nothing; subclasses may override this to see the input of a batch norm before its statistics are read."""

    def _batch_norm(self, node: fx.Node) -> Tensor:
        arguments = bind(node)
        x: Tensor = self.env[arguments["input"]]
        self.before_batch_norm(node, x)

        def tensor(name: str) -> Tensor | None:
            part = arguments.get(name)
            if not isinstance(part, fx.Node):
                return None
            # Read anew: the statistics may just have been set.
            value: Tensor = self.fetch_attr(str(part.target)) if part.op == "get_attr" else self.env[part]
            return value.reshape(1, -1, *[1] * (x.dim() - 2))

        mean, var, weight, bias = (tensor(name) for name in ("running_mean", "running_var", "weight", "bias"))
        if mean is None or var is None:
            dims = [d for d in range(x.dim()) if d != 1]
            mean, var = x.mean(dims, keepdim=True), x.var(dims, unbiased=False, keepdim=True)
        scale = torch.rsqrt(var + arguments["eps"])
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        return torch.addcmul(shift, x, scale)


_OUT_OF_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    **{
        getattr(module, f"{name}_"): getattr(module, name)
        for module in (torch, F)
        for name in dir(module)
        if not name.startswith("_") and hasattr(module, f"{name}_") and callable(getattr(module, name))
    },
}
