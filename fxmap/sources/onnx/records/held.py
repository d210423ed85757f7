"""Tensors under any names, as parameters and buffers of nested modules: an ONNX file may call its weights `/fc/w.1:0`.

>>> import torch
>>> tree = Held()
>>> tree.hold("fc.weight", torch.ones(2))
>>> tree.hold("forward", torch.ones(3))
>>> list(tree.state_dict()), list(tree.held("forward").shape)
(['initializer 1', 'fc.weight'], [3])
"""

from typing import Any

from torch import Tensor, nn


class Held(nn.Module):
    """A module that holds tensors by names; `paths` has the path of each, which is its name where that can be one."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: dict[str, str] = {}

    def hold(self, name: str, value: Tensor) -> None:
        """Hold a tensor: a parameter where it is of floating point, else a buffer."""
        *parents, last = name.split(".")
        owner: nn.Module = self
        if all(part and _is_free(self, part) for part in (*parents[:1], last)) and last:
            for part in parents:
                child = owner._modules.get(part)
                if child is None:
                    child = nn.Module()
                    owner.add_module(part or "_", child)
                owner = child
        else:
            parents, last = [], f"initializer {len(self.paths)}"
        if not _is_free(owner, last):
            owner, parents, last = self, [], f"initializer {len(self.paths)}"
        if value.is_floating_point():
            owner.register_parameter(last, nn.Parameter(value, requires_grad=False))
        else:
            owner.register_buffer(last, value)
        self.paths[name] = ".".join((*parents, last))

    def held(self, name: str) -> Tensor:
        """Return the tensor of a name; a proof puts others in the place of parameters."""
        owner, _, last = self.paths[name].rpartition(".")
        value: Tensor = getattr(self.get_submodule(owner), last)
        return value

    def put(self, name: str, value: Tensor) -> None:
        """Hold another tensor, of any shape, in the place of a parameter."""
        owner, _, last = self.paths[name].rpartition(".")
        setattr(self.get_submodule(owner), last, nn.Parameter(value.detach(), requires_grad=False))

    def release(self, name: str) -> Tensor:
        """Hold a tensor no longer, and return it."""
        value, (owner, _, last) = self.held(name), self.paths.pop(name).rpartition(".")
        delattr(self.get_submodule(owner), last)
        return value.detach()


def _is_free(owner: Any, name: str) -> bool:
    """Whether a name can be a parameter or a child of a module; a child that is there already can be gone into."""
    return bool(name) and "." not in name and (type(owner._modules.get(name)) is nn.Module or not hasattr(owner, name))
