"""Functional recordings: x[i] = v is x' = scatter(x, v, i), and what reads x afterwards reads x'.

A write in place changes a tensor, all views of it, and what it is a view of; a graph in which it is one more call has
nothing that reads it, and loses what was written. torch's functionalisation keeps, for every tensor that code holds, the
value that it has now: writes become operations that make new values (`slice_scatter`, `index_put`), and a view is taken
anew from what was written to its base. What a recorder sees below it has no writes, on tensors that are never written to.

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
    """Run what is inside the `with` block functionally; yields the inputs to call the replica with.

    Inputs, buffers, and tensors that modules hold as attributes may be written to. They keep their values, and the replica
    gets them back at the end. Parameters are written to only where they are kept functional too; code then sees tensors in
    their place.
    """
    known: dict[int, Any] = {}

    def wrap(value: Any) -> Any:
        """Wrap a tensor, or those that a list or a dict holds; what several modules hold stays shared."""
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


# What a module holds its tensors and other modules in: they are no attributes of its own.
_TABLES = set(vars(nn.Module()))


def _holds_tensors(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(isinstance(part, Tensor) for part in parts)


@contextmanager
def as_it_is(_: nn.Module, inputs: Inputs) -> Iterator[Inputs]:
    """Run what is inside the `with` block as it is written."""
    yield inputs


def unwrapped(value: Any) -> Any:
    """Return a tensor as it is now, if it is one that is kept functional; other values are as they are."""
    if not isinstance(value, Tensor) or not torch._is_functional_tensor(value):
        return value
    torch._sync(value)  # type: ignore[attr-defined, no-untyped-call]
    return torch._from_functional_tensor(value)
