"""Scripted code: what torch.jit.script has compiled decides without Python, so that no run sees or turns its decisions.

A model that calls such a function, or has such a module, is the other one's equal only if the other one has the same code
there. Whole models that are scripts are opened by `fxmap.sources.scripted`.

>>> @torch.jit.script
... def halved_where_long(x: torch.Tensor) -> torch.Tensor:
...     return x / 2 if x.shape[0] > 30 else x
>>> class Net(nn.Module):
...     def forward(self, x):
...         return halved_where_long(x)
>>> decisions_alone(Net(), Net()), decisions_alone(Net(), nn.Identity())
([], ['halved_where_long'])

Cost: linear in the modules and the code of their forwards.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxmap.model.restoring import let_through
from fxmap.prove.code.limits import held_by

_TORCH = str(Path(torch.__file__).resolve().parent)


def decisions_alone(src: nn.Module, dst: nn.Module) -> list[str]:
    """Return the names of scripted code that decides and that only one of two models has."""
    ours, theirs = dict(_scripted(src)), dict(_scripted(dst))
    return [name for code, name in {**ours, **theirs}.items() if not (code in ours and code in theirs)]


def _scripted(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the code of scripted functions and modules that decide, with their names."""
    for value in held_by(model):
        if isinstance(value, torch.jit.ScriptFunction | torch.jit.ScriptModule):
            try:
                graph: Any = value.inlined_graph
                if any(_TORCH not in node.sourceRange() for kind in _CHOICES for node in graph.findAllNodes(kind)):
                    yield str(value.code), getattr(value, "name", None) or type(value).__name__
            except Exception as error:  # a script without a forward has no graph
                let_through(error)


_CHOICES = ("prim::If", "prim::Loop")
