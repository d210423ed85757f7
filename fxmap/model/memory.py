"""Memory: tensors that lie in the memory of a user's tensors, until something writes to them.

>>> weight = nn.Parameter(torch.ones(200, 200))
>>> layer = nn.Module()
>>> layer.weight = alias(weight)
>>> def write():
...     with torch.no_grad():
...         return layer.weight.mul_(2).sum().item()
>>> on_own_memory(layer, write), weight.sum().item()
(80000.0, 40000.0)

Cost: nothing until a write; then a copy of the model, and the run begins anew.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fxmap.model.dispatch import DispatchMode
from fxmap.model.restoring import let_through
from fxmap.model.tensors import tensors_of

Result = TypeVar("Result")

# Tensors of so few numbers (counters, statistics, biases) are copied at once.
_FEW = 1 << 12

# The attribute that marks a tensor that lies in the memory of another one.
_MARK = "_lies_in_memory_of_the_user"


def alias(tensor: Tensor) -> Tensor:
    """Return another tensor object with the same values: small ones are copied, large ones share their memory.

    Class, `requires_grad` and attributes are those of the tensor; gradients and hooks are not. One of a class that torch
    cannot make anew is returned as it is.
    """
    if is_lazy(tensor):
        return copy.deepcopy(tensor)
    try:
        data = tensor.data
        few = tensor.numel() <= _FEW
        twin = _made(tensor, data.clone() if few else data)
        vars(twin).update(vars(tensor))
        if not few:
            setattr(twin, _MARK, True)
    except MemoryError:
        raise
    except Exception as error:  # a class of tensors with rules of its own
        let_through(error)
        return tensor
    return twin


def owned(tensor: Tensor) -> Tensor:
    """Return another tensor object with the same values, in memory of its own."""
    twin = alias(tensor)
    _own(twin, {})
    return twin


def _made(tensor: Tensor, data: Tensor) -> Tensor:
    if type(data) is Tensor:
        made: Tensor = torch.Tensor._make_subclass(type(tensor), data, tensor.requires_grad)
        return made
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(data, tensor.requires_grad) if is_parameter else data.requires_grad_(tensor.requires_grad)


def own_memory(module: nn.Module) -> None:
    """Give every tensor of a replica memory of its own; tensors that lie in one another's still do."""
    copies: dict[int, torch.UntypedStorage] = {}
    for tensor in _registered(module):
        _own(tensor, copies)


def _own(tensor: Tensor, copies: dict[int, torch.UntypedStorage]) -> None:
    if not vars(tensor).pop(_MARK, False):
        return
    data = tensor.data
    if type(data) is not Tensor or data.layout is not torch.strided or data.is_quantized or data.is_meta:
        tensor.data = data.clone()
        return
    storage = data.untyped_storage()
    if storage.nbytes() > 2 * data.numel() * data.element_size():
        tensor.data = data.clone()  # a part of a file
        return
    if storage._cdata not in copies:
        copies[storage._cdata] = storage.clone()  # type: ignore[no-untyped-call]
    empty = torch.empty(0, dtype=data.dtype, device=data.device)
    tensor.data = empty.set_(copies[storage._cdata], data.storage_offset(), data.size(), data.stride())


def on_own_memory(module: nn.Module, run: Callable[[], Result]) -> Result:
    """Run code on a replica; where it writes to memory of the user, the replica gets its own, and the run begins anew."""
    shared = {_place(tensor) for tensor in _registered(module) if getattr(tensor, _MARK, False)} - {0}
    if not shared:
        return run()
    try:
        with _Guard(shared):
            return run()
    except _Written:
        own_memory(module)
    return run()


def can_hold(tensor: Tensor) -> bool:
    """Whether a tensor can hold other values: torch's own class, in memory, not sparse and not quantized."""
    is_torchs = type(tensor) in (Tensor, nn.Parameter)
    return is_torchs and tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_quantized


def _registered(module: nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        values = (getattr(part, name, None) for name in attributes_of(part))
        yield from (value for value in values if isinstance(value, Tensor))


def attributes_of(module: nn.Module) -> list[str]:
    """Return the names of a module's own parameters and buffers, which a module of TorchScript keeps elsewhere."""
    if isinstance(module, torch.jit.ScriptModule):
        return [name for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))]
    return [*module._parameters, *module._buffers]


def _place(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, or of a class without a storage
        return 0


class _Written(BaseException):
    """Code was about to write to memory that is not its own."""


class _Guard(DispatchMode):
    """Stops an operation that would write to memory of the user."""

    def __init__(self, shared: set[int]) -> None:
        super().__init__()
        self.shared = shared

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at what an operation writes to, then run it."""
        kwargs = kwargs or {}
        if func._schema.is_mutable and any(_place(tensor) in self.shared for tensor in written(func, args, kwargs)):
            raise _Written
        return func(*args, **kwargs)


def written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the tensors that a call of an operation writes to."""
    arguments = func._schema.arguments
    given = dict(zip((argument.name for argument in arguments), args, strict=False)) | kwargs
    mutable = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    return tensors_of([given.get(name) for name in mutable])
