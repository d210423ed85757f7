"""Saved: what a model holds, kept so that it can be put back without the code of the model.

Loading runs code that may fail: hooks, overridden methods, setters of a parameter's class. Putting back must not take that
path again. Attributes and tables of every module are put back as the objects that they were, and tensors by `copy_` into
their own memory, without gradients and without what subclasses do. One that fails, or is interrupted, is tried again and
does not hinder the others.

Cost: a copy of the model's tensors.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxmap.expressions.packing import clone
from fxmap.model.memory import attributes_of
from fxmap.model.restoring import Tried, tried

Step = tuple[str, Callable[[], object]]


@dataclass(frozen=True)
class Saved:
    """The steps that put back what a model held, each with the path of what it puts back."""

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, model: nn.Module, *, values: bool = True) -> "Saved":
        """Save a model: its tensors, attributes and extra state, and the code of its graph; without `values`, no numbers."""
        steps: list[Step] = []
        for path, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                steps += [(path, partial(_put_back_items, vars(module), dict(vars(module)))), *_tables(path, module)]
            if isinstance(module, fx.GraphModule):
                steps.append((path, _code(module)))
            steps += _extra(path, module)
        seen: set[int] = set()
        for path, module in model.named_modules() if values else ():
            for name in attributes_of(module):
                tensor = getattr(module, name, None)
                if isinstance(tensor, Tensor) and id(tensor) not in seen:
                    seen.add(id(tensor))
                    steps.append((f"{path}.{name}" if path else name, _tensor(tensor)))
        # An interrupt may come while a `no_grad` block ends.
        return cls((*steps, ("", partial(torch._C._set_grad_enabled, torch.is_grad_enabled()))))

    def put_back(self) -> tuple[list[str], BaseException | None]:
        """Put everything back; return the paths where that failed, and what interrupted it, if anything did."""
        done: Tried = tried(step for _, step in self.steps)
        interrupt = None if isinstance(done.error, Exception) else done.error
        return [self.steps[place][0] or "the model itself" for place in done.failed], interrupt


def _tables(path: str, module: nn.Module) -> list[Step]:
    tables: list[dict[str, Any]] = [vars(module)[name] for name in ("_parameters", "_buffers", "_modules")]
    return [(path, partial(_put_back_items, table, dict(table))) for table in tables]


def _put_back_items(table: dict[str, Any], before: dict[str, Any]) -> None:
    for name in [name for name in table if name not in before]:
        del table[name]
    table.update(before)


def _code(module: fx.GraphModule) -> Callable[[], None]:
    """Return the step that puts back the arguments of a graph's nodes, and the code that was made of it."""
    made, code = type(module), {name: vars(type(module)).get(name) for name in ("forward", "__call__")}
    arguments = [(node, node.args, node.kwargs) for node in module.graph.nodes]

    def put_back() -> None:
        for node, args, kwargs in arguments:
            if node.args != args or node.kwargs != kwargs:
                node.args, node.kwargs = args, kwargs
        for name, function in code.items():
            if function is not None:
                setattr(made, name, function)

    return put_back


def _extra(path: str, module: nn.Module) -> list[Step]:
    if type(module).set_extra_state is nn.Module.set_extra_state:
        return []
    try:
        before = deepcopy(module.get_extra_state())
    except Exception:  # state that cannot be copied is put back with the attributes
        return []
    return [(f"{path}._extra_state" if path else "_extra_state", lambda: module.set_extra_state(before))]


def _tensor(tensor: Tensor) -> Callable[[], None]:
    """Return the step that puts back the values of a tensor, in its own memory and with its own shape."""
    with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
        held = tensor.detach()
        # On the meta device there are no values.
        values = None if held.is_meta else clone(held)

    def put_back() -> None:
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            if values is not None:
                held.copy_(values)
            if tensor.shape != held.shape or _place(tensor) != _place(held):
                tensor.data = held

    return put_back


def _place(tensor: Tensor) -> object:
    strided = type(tensor.data) is Tensor and tensor.layout is torch.strided
    return (tensor.data_ptr(), tensor.stride()) if strided else None
