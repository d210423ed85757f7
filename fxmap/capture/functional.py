"""Functional recordings: x[i] = v becomes x' = scatter(x, v, i), and later reads of x read x'.

A write in place changes a tensor, all views of it, and its base. In a graph such a write is one more call, whose result
nothing reads, so that the written value is lost. torch's functionalization keeps the current value of every tensor that
the code holds: writes become operations that make new values (`slice_scatter`, `index_put`), and after a write to its base
a view is taken anew. A recorder below this layer sees no writes, and tensors that are never written to.

Source: torch.func.functionalize, and "Functionalization in PyTorch" (dev-discuss.pytorch.org/t/965). It is used here below
the level of torch.func, so that factories and buffers take part.

>>> from torch import nn
>>> from fxmap.model.inputs import as_inputs
>>> class Doubled(nn.Module):
...     def forward(self, x):
...         x[0] *= 2
...         return x
>>> inputs = as_inputs(torch.ones(2))
>>> with functional(Doubled(), inputs) as wrapped:
...     print(unwrapped(wrapped.call(Doubled())), inputs.args[0])
tensor([2., 1.]) tensor([1., 1.])

Cost: every write copies the tensor that it writes to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fxmap.model.inputs import Inputs


@contextmanager
def functional(replica: nn.Module, inputs: Inputs, *, parameters: bool = False) -> Iterator[Inputs]:
    """Run the code in the `with` block under functionalization; yields the inputs to call the replica with.

    Inputs, buffers, and tensors that modules hold as attributes may be written to. They keep their values, and the replica
    gets them back at the end. Parameters may be written to only if `parameters` is set; code then sees tensors that are no
    `nn.Parameter` in their place.
    """
    known: dict[int, Any] = {}

    def wrap(value: Any) -> Any:
        """Wrap a tensor, or all tensors in a list or dict; tensors that several modules share stay shared."""
        if id(value) not in known:
            if isinstance(value, Tensor) and (parameters or not isinstance(value, nn.Parameter)):
                known[id(value)] = torch._to_functional_tensor(value)
            elif _holds_tensors(value):
                known[id(value)] = tree_map(wrap, value)
        return known.get(id(value), value)

    held = [(module, dict(vars(module))) for module in replica.modules()]
    both: list[dict[str, Any]] = [table for module, _ in held for table in (module._buffers, module._parameters)]
    tables = [(table, dict(table)) for table in both]
    torch._enable_functionalization(reapply_views=True)
    try:
        for module, attributes in held:
            vars(module).update({name: wrap(value) for name, value in attributes.items() if name not in _TABLES})
        for table, values in tables:
            table.update({name: wrap(value) for name, value in values.items()})
        yield inputs.map(wrap)
    finally:
        torch._disable_functionalization()  # type: ignore[no-untyped-call]
        for table, values in [*((vars(module), attributes) for module, attributes in held), *tables]:
            table.clear()
            table.update(values)


# The dicts in which every module keeps its parameters, buffers and submodules: no attributes that a user set.
_TABLES = set(vars(nn.Module()))


def _holds_tensors(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(isinstance(part, Tensor) for part in parts)


@contextmanager
def as_it_is(_: nn.Module, inputs: Inputs) -> Iterator[Inputs]:
    """Run the code in the `with` block without functionalization; yields the inputs unchanged."""
    yield inputs


def unwrapped(value: Any) -> Any:
    """Return the current value of a functional tensor as a plain tensor; other values are returned unchanged."""
    if not isinstance(value, Tensor) or not torch._is_functional_tensor(value):
        return value
    torch._sync(value)  # type: ignore[attr-defined, no-untyped-call]
    return torch._from_functional_tensor(value)
