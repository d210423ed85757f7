"""Tables of a file: integers and booleans that a source model reads, and that no mapping carries over.

Positions, permutations, masks and switches are buffers of the source; the destination may compute its own. The file may hold
other numbers of them than those that the source was built with, and it is the file's model that is loaded. So the source
computes with the file's numbers in all that is compared.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fxmap.files.lazy import LazyTensor, materialise
from fxmap.model.replica import named_tensors, replicate
from fxmap.model.tensors import is_whole
from fxmap.model.wrappers import unwrap


def with_tables(src: nn.Module, state: Mapping[str, Any]) -> tuple[nn.Module, list[str]]:
    """Return a copy of a model with the integers and booleans of a state dict, and the keys whose numbers were others.

    The user's model is not changed; where no number differs, it is returned itself. Cost: these tensors are read. The
    batches that norms have counted are left out, since no norm reads them in eval mode.

    >>> model = nn.Linear(2, 2)
    >>> model.register_buffer("order", torch.arange(2))
    >>> copy, keys = with_tables(model, {"order": torch.tensor([1, 0])})
    >>> copy.order.tolist(), model.order.tolist(), keys
    ([1, 0], [0, 1], ['order'])
    """
    inner, prefix = unwrap(src)
    new: dict[str, Tensor] = {}
    for path, owner, name in named_tensors(inner):
        value = state.get(prefix + path)
        if not isinstance(owner, _NormBase) and has_other_integers(getattr(owner, name), value):
            new[path] = materialise(value)
    if not new:
        return src, []
    model = replicate(src)
    for path, owner, name in list(named_tensors(unwrap(model)[0])):
        if path in new and name in owner._buffers:
            own = getattr(owner, name)
            owner._buffers[name] = new[path].detach().to(own.dtype, copy=True)
    return model, [prefix + path for path in new]


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
