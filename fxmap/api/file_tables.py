"""Tables of a file: what a source model reads, and no mapping carries over: integers, booleans, and what its code makes.

Positions, permutations, masks and switches are buffers of the source; the destination may compute its own. Frequencies and
other buffers that are no part of a state dict may stand in a file all the same, of an older version of the model. The file
may hold other numbers of them than those that the source was built with, and it is the file's model that is loaded. So the
source computes with the file's numbers in all that is compared.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fxmap.files.lazy import LazyTensor, materialise
from fxmap.model.replica import named_tensors, replicate
from fxmap.model.tensors import is_whole
from fxmap.model.wrappers import unwrap

# What a machine makes of a table differs by so much from what another one makes, relative to each number.
_ROUNDING = 1e-5


def with_tables(src: nn.Module, state: Mapping[str, Any]) -> tuple[nn.Module, list[str]]:
    """Return a copy of a model with the tables of a state dict, and the keys whose numbers were others.

    Tables are integers and booleans, and buffers of any numbers that are not persistent. The user's model is not changed;
    where no number differs, it is returned itself. Cost: these tensors are read. The batches that norms have counted are
    left out, since no norm reads them in eval mode.

    >>> model = nn.Linear(2, 2)
    >>> model.register_buffer("order", torch.arange(2))
    >>> copy, keys = with_tables(model, {"order": torch.tensor([1, 0])})
    >>> copy.order.tolist(), model.order.tolist(), keys
    ([1, 0], [0, 1], ['order'])
    """
    inner, prefix = unwrap(src)
    made = own_buffers(inner)
    new: dict[str, Tensor] = {}
    for path, own in chain(_persistent(inner), made.items()):
        value = state.get(prefix + path)
        if has_other_integers(own, value) or (path in made and _has_other_floats(own, value)):
            new[path] = materialise(value)
    if not new:
        return src, []
    model = replicate(src)
    replica = unwrap(model)[0]
    for path, value in new.items():
        owner, _, name = path.rpartition(".")
        buffers = replica.get_submodule(owner)._buffers
        held = buffers.get(name)
        if held is not None:
            buffers[name] = value.detach().to(held.dtype, copy=True)
    return model, [prefix + path for path in new]


def own_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that are no part of a model's state dict, by path: its code makes them.

    >>> from torch.nn.modules.batchnorm import BatchNorm1d
    >>> own_buffers(BatchNorm1d(2))
    {}
    """
    persistent = {path for path, _, _ in named_tensors(model)}
    return {path: value for path, value in model.named_buffers(remove_duplicate=False) if path not in persistent}


def _persistent(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((path, getattr(owner, name)) for path, owner, name in named_tensors(model) if not isinstance(owner, _NormBase))


def _has_other_floats(own: Tensor, value: Any) -> bool:
    """Whether a value of a file has other numbers than a tensor of the model, beyond the rounding of either's dtype."""
    if not isinstance(value, Tensor | LazyTensor) or own.layout is not torch.strided or own.shape != value.shape:
        return False
    read = materialise(value)
    if read.is_meta or own.is_meta or not (own.is_floating_point() and read.is_floating_point()):
        return False
    rounding = max(_ROUNDING, 2 * torch.finfo(read.dtype).eps, 2 * torch.finfo(own.dtype).eps)
    return not torch.allclose(own.detach().cpu().double(), read.cpu().double(), rtol=rounding, atol=1e-8, equal_nan=True)


def has_other_integers(own: Any, value: Any) -> bool:
    """Whether a value of a file has other numbers than a tensor of integers or booleans of the model, of the same shape.

    >>> has_other_integers(torch.tensor([True]), torch.tensor([False])), has_other_integers(torch.ones(1), torch.zeros(1))
    (True, False)
    """
    if not isinstance(own, Tensor) or not isinstance(value, Tensor | LazyTensor) or not is_whole(own):
        return False
    if own.layout is not torch.strided or own.shape != value.shape:
        return False
    read = materialise(value)
    if read.is_meta or not is_whole(read):
        return False
    return own.is_meta or not torch.equal(own.detach().cpu(), read.to(own.dtype).cpu())
