"""TorchScript as a module: the archive's own code, run by torch's interpreter on tensors that can be exchanged.

A scripted or traced module cannot be copied module by module, nor traced symbolically. Here its parameters and buffers are
those of a plain module, under their names, and are put into the script for a call. So the run is recorded as any other one.

>>> from torch import nn
>>> script = torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3))
>>> model = ScriptedModel(script)
>>> list(model.state_dict()), torch.equal(model(torch.ones(1, 3)), script(torch.ones(1, 3)))
(['weight', 'bias'], True)
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.model.extents import DoubleExtents
from fxmap.model.tensors import is_whole


class ScriptedModel(nn.Module):
    """A TorchScript module behind a plain one with the same state dict; the script itself is left as it is.

    `is_trace` says that nothing in it decides: so it may hold numbers that its code made of the extents of an example.
    """

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self._script = [script]  # in a list, so that it is no submodule
        self._paths: list[str] = []
        self.unseen_decisions = _decisions(script)
        self.is_trace = all(node.kind() not in _BLOCKS for node in _nodes(script.inlined_graph))
        named = [*script.named_parameters(remove_duplicate=False), *script.named_buffers(remove_duplicate=False)]
        for path, value in named:
            *parents, last = path.split(".")
            owner: nn.Module = self
            for part in parents:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner._modules[part]  # type: ignore[assignment]
            if isinstance(value, nn.Parameter):
                owner.register_parameter(last, nn.Parameter(value.detach(), requires_grad=False))
            else:
                owner.register_buffer(last, value.detach(), persistent=not _is_filled(value))
            self._paths.append(path)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the script with this module's tensors."""
        script = self._script[0]
        before: list[tuple[Any, str, Tensor]] = []
        was_training = script.training
        try:
            for path in self._paths:
                owner, _, last = path.rpartition(".")
                place, value = _part(script, owner), getattr(self.get_submodule(owner), last)
                before.append((place, last, getattr(place, last)))
                setattr(place, last, value)
            script.train(self.training)
            # Numbers that a trace makes of extents have the precision of the run.
            doubles = any(getattr(place, last).dtype is torch.float64 for place, last, _ in before)
            with DoubleExtents() if doubles else nullcontext():
                return script(*args, **kwargs)
        finally:
            script.train(was_training)
            for place, last, value in before:
                setattr(place, last, value)


def _is_filled(value: Tensor) -> bool:
    """Whether a buffer is several times one integer, such as ids that stand for what a call leaves out.

    TorchScript forgets which buffers are persistent. Such a one is a constant of the code.
    """
    return is_whole(value) and value.numel() > 1 and bool((value == value.flatten()[0]).all())


def _decisions(script: torch.jit.ScriptModule) -> tuple[str, ...]:
    """Return the operations by which a script takes numbers out of tensors: no run turns round what it decides by them.

    Numbers that are computed of extents and constants alone are none: runs with other sizes turn these round.
    """
    of_extents: set[str] = set()
    found: set[str] = set()
    tuples: dict[str, list[str]] = {}
    for node in _nodes(script.inlined_graph):
        kind, read = node.kind(), [value.debugName() for value in node.inputs()]
        made = [value.debugName() for value in node.outputs()]
        if kind == "prim::TupleConstruct":
            tuples[made[0]] = read
        elif kind == "prim::TupleUnpack":
            parts = zip(made, tuples.get(read[0], ()), strict=False)
            of_extents.update(name for name, part in parts if part in of_extents)
            continue
        known = kind in _EXTENTS or (bool(read) and kind not in _BLOCKS and of_extents.issuperset(read))
        if known:
            of_extents.update(made)
        elif kind in _NUMBERS:
            found.add(kind)
    return tuple(sorted(found))


_NUMBERS = ("aten::Bool", "aten::Float", "aten::Int", "aten::item", "aten::ScalarImplicit", "aten::IntImplicit")
_EXTENTS = ("aten::dim", "aten::len", "aten::numel", "aten::size", "prim::Constant")
_BLOCKS = ("prim::If", "prim::Loop")


def _nodes(block: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of the blocks in them, in their order."""
    for node in block.nodes():
        for inner in node.blocks():
            yield from _nodes(inner)
        yield node


def _part(script: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        script = getattr(script, name)
    return script
