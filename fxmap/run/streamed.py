"""Models whose weights are never in memory together: each is made when an operation reads it, and dropped afterwards.

A model that is streamed is another object with the same code: its large parameters are deferred tensors (`deferred.py`),
which make the model's own numbers, or draw some (`drawn.py`) where the model is on the meta device and has none. Whatever
runs a model runs a streamed one: recording, lockstep, a backward pass, the user's own `forward` on other inputs.

>>> with torch.device("meta"):
...     model = nn.Sequential(nn.Linear(1000, 1000), nn.BatchNorm1d(1000))
>>> twin = streamed(model)
>>> type(twin[0].weight).__name__, twin[1].running_var.sum().item(), twin(torch.ones(2, 1000)).shape
('Deferred', 1000.0, torch.Size([2, 1000]))
"""

import math

import torch
from torch import Tensor, nn

from fxmap.model.replica import replicate
from fxmap.model.weightless import rebuilt_buffers
from fxmap.run.deferred import Deferred
from fxmap.run.drawn import SMALL, drawn, generator_of
from fxmap.run.recipe import Recipe

# Tensors of fewer numbers are not worth it: they are in memory as they are.
LEAST = SMALL
# From so many numbers on, a model is not in memory in float64 beside another one: 2 GB.
_LARGE = 1 << 28

# Where a module of a streamed model notes its buffers whose numbers nobody knows.
_UNKNOWN = "_fxmap_unknown_buffers"
# The run whose numbers the models get before a proof draws its own.
_BEFORE = -1


def streamed(model: nn.Module, least: int | None = None) -> nn.Module:
    """Return a replica of a model whose parameters of at least so many numbers are deferred; shared ones stay shared."""
    known, least = rebuilt_buffers(model), LEAST if least is None else least
    twin, made = replicate(model), dict[int, Tensor]()
    for path, module in twin.named_modules():
        for holder in (module._parameters, module._buffers):
            for name, own in holder.items():
                key = f"{path}.{name}" if path else name
                if own is None or isinstance(own, Deferred):
                    continue
                if own.is_meta and key not in known and holder is module._buffers:
                    setattr(module, _UNKNOWN, (*getattr(module, _UNKNOWN, ()), name))
                if id(own) not in made:
                    value = known.get(key)
                    value = _value(key, own, least, holder is module._parameters) if value is None else value
                    made[id(own)] = own if value is None else _like(value, own)
                holder[name] = made[id(own)]
    return twin


def is_large(model: nn.Module) -> bool:
    """Whether a model is streamed, and has so many numbers that only what needs no two of its weights at once is tried."""
    found = [tensor for tensor in model.parameters() if isinstance(tensor, Deferred)]
    return sum(tensor.numel() for tensor in found) > _LARGE


def unknown_buffers(model: nn.Module) -> tuple[str, ...]:
    """Return the buffers of a streamed model, by path, whose numbers were made up: it was built on the meta device.

    >>> class Table(nn.Module):
    ...     def __init__(self, width: int) -> None:
    ...         super().__init__()
    ...         self.register_buffer("table", torch.arange(width))
    >>> with torch.device("meta"):
    ...     model = nn.Sequential(Table(4), nn.BatchNorm1d(4))
    >>> unknown_buffers(streamed(model))
    ('0.table',)
    """
    found = ((path, name) for path, module in model.named_modules() for name in vars(module).get(_UNKNOWN, ()))
    return tuple(f"{path}.{name}" if path else name for path, name in found)


def _like(value: Tensor, own: Tensor) -> Tensor:
    if not isinstance(own, nn.Parameter):
        return value
    twin = nn.Parameter(value, own.requires_grad)
    vars(twin).update({name: held for name, held in vars(own).items() if name not in vars(twin)})
    return twin


def _value(key: str, own: Tensor, least: int, is_parameter: bool) -> Tensor | None:
    """Return what stands in the place of a tensor; None for the tensor itself."""
    large = is_parameter and own.numel() >= least and own.dim() > 0
    if own.is_meta:
        return random_like(key, own, _BEFORE, least)
    if not large or type(own) not in (Tensor, nn.Parameter) or own.layout is not torch.strided:
        return None
    values = own.detach()
    return Deferred(Recipe(tuple(own.shape), own.dtype, lambda a, b: values[a:b], identity=(id(values), key)))


def random_like(key: str, own: Tensor, seed: int, least: int) -> Tensor:
    """Return numbers for a tensor that has none, of its shape and dtype: normal ones by the fan-in, factors near 1 else."""
    if own.dim() > 1 and own.is_floating_point():
        scale = 1 / math.sqrt(max(1, math.prod(own.shape[1:])))
        if own.numel() >= least:
            return Deferred(drawn(key, own.shape, scale, seed, own.dtype))
        return (torch.randn(own.shape, generator=generator_of(key, seed), dtype=torch.float64) * scale).to(own.dtype)
    if own.is_floating_point() or own.is_complex():
        return (torch.rand(own.shape, generator=generator_of(key, seed), dtype=torch.float64) + 0.5).to(own.dtype)
    return torch.zeros(own.shape, dtype=own.dtype)
