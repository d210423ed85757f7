"""Weight norm: where one model has it and the other has plain weights, the twin gets plain weights too.

A vocoder is trained with weight norm, which is taken off for inference. Both styles are understood: parametrizations, and
the hooks of `torch.nn.utils.weight_norm`. Where both models have it, length and direction are tensors like any others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm as WeightNormHook

from fxmap.expressions import Source
from fxmap.quantization.store import Store
from fxmap.quantization.twin import Twin


@dataclass(frozen=True, slots=True)
class WeightNorm:
    """One weight with weight norm: its module, its name, the axis that keeps its lengths (-1 for none), and its two keys."""

    path: str
    name: str
    axis: int
    length: str
    direction: str
    hook: int | None = None


def weight_norms(model: nn.Module) -> list[WeightNorm]:
    """Find the weights with weight norm.

    >>> [(norm.path, norm.length) for norm in weight_norms(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))]
    [('', 'parametrizations.weight.original0')]
    """
    return [norm for path, module in model.named_modules() for norm in _of_module(path, module)]


def _of_module(path: str, module: nn.Module) -> Iterator[WeightNorm]:
    prefix = f"{path}." if path else ""
    for number, hook in module._forward_pre_hooks.items():
        if isinstance(hook, WeightNormHook):
            keys = (f"{prefix}{hook.name}_g", f"{prefix}{hook.name}_v")
            yield WeightNorm(path, hook.name, hook.dim, *keys, number)
    found: Any = getattr(module, "parametrizations", None)
    if isinstance(found, nn.ModuleDict) and len(found) == 1:
        parts: Any
        ((name, parts),) = found.items()
        if type(parts[0]).__name__ == "_WeightNorm" and len(parts) == 1:
            key = f"{prefix}parametrizations.{name}.original"
            yield WeightNorm(path, name, parts[0].dim, f"{key}0", f"{key}1")


def without_weight_norm(twin: Twin) -> Twin:
    """Give the weights of a twin that have weight norm as plain ones; the twin is changed, the model is not."""
    stores = dict(twin.stores)
    for norm in weight_norms(twin.module):
        module = twin.module.get_submodule(norm.path)
        length, direction = (_tensor(twin.module, key) for key in (norm.length, norm.direction))
        if norm.hook is not None:
            for key in (norm.length, norm.direction):
                del module._parameters[key.rpartition(".")[2]]
            del module._forward_pre_hooks[norm.hook]
            module.__dict__.pop(norm.name, None)
        else:
            # The class made for the parametrized module is the model's too, and must stay as it is.
            module.__class__ = type(module).__bases__[0]
            del module._modules["parametrizations"]
        with torch.no_grad():
            weight = torch._weight_norm(direction.detach(), length.detach(), norm.axis)
        module.register_parameter(norm.name, nn.Parameter(weight, requires_grad=False))
        path = f"{norm.path}.{norm.name}" if norm.path else norm.name
        beside = Source(norm.direction), Source(norm.length)
        stores[norm.length] = Store(path, part="length", axis=norm.axis)
        stores[norm.direction] = Store(path, part="direction", axis=norm.axis, beside=beside)
    return replace(twin, stores=stores)


def _tensor(model: nn.Module, key: str) -> Tensor:
    owner, _, name = key.rpartition(".")
    found: Tensor = getattr(model.get_submodule(owner), name)
    return found
