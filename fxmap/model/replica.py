"""Replica: a copy of a model's tree of modules that runs the user's code on the user's tensors.

Capture and proof change a model: they switch it to eval, drop observers, exchange weights. They do so to the replica, and
the user's model keeps its mode, its hooks and its values. Tensors are shared, so a replica takes no memory.

Cost: linear in the number of modules.
"""

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")


Replace = Callable[[str, nn.Module], nn.Module | None]


def replicate(model: nn.Module, replace: Replace = lambda path, module: None) -> nn.Module:
    """Copy the module tree, sharing every tensor.

    `replace(path, module)` may return a module to put in the place of one (and of everything below it), or None. A module
    that occurs at several paths is copied once, and stays shared. `copy.deepcopy` would double the memory, and fails on
    old-style weight norm after a forward pass. O(number of modules).

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    >>> twin = replicate(model).eval()
    >>> model.training, twin.training, twin[0].weight is model[0].weight
    (True, False, True)
    """
    copies: dict[nn.Module, nn.Module] = {}

    def copy(path: str, module: nn.Module) -> nn.Module:
        if module not in copies:
            replacement = replace(path, module)
            if replacement is None:
                replacement = _shallow(module)
                copies[module] = replacement
                for name, child in module._modules.items():
                    if child is not None:
                        replacement._modules[name] = copy(f"{path}.{name}" if path else name, child)
            copies[module] = replacement
        return copies[module]

    root = copy("", model)
    for original, replica in copies.items():
        _rebind(original, replica, copies)
    return root


def _shallow(module: nn.Module) -> nn.Module:
    # Not copy.copy: GraphModule and quantized modules override it, and the former would re-trace.
    twin: nn.Module = object.__new__(type(module))
    twin.__dict__ = {
        name: value.copy() if isinstance(value, dict | set | list) else value for name, value in module.__dict__.items()
    }
    # An exported module refuses both by attributes of its own, since they do nothing to its graph.
    for name in ("train", "eval"):
        twin.__dict__.pop(name, None)
    return twin


def _rebind(original: nn.Module, replica: nn.Module, copies: dict[nn.Module, nn.Module]) -> None:
    # A module may keep bound methods of itself (self.forward = self._forward_impl) or modules in plain attributes and
    # lists; these must point into the replica, or running it would run the user's model.
    if type(original) is not type(replica):
        return
    for name, value in vars(replica).items():
        if name == "_modules":
            continue
        if isinstance(value, types.MethodType) and value.__self__ in copies:
            vars(replica)[name] = types.MethodType(value.__func__, copies[value.__self__])
        elif isinstance(value, nn.Module):
            vars(replica)[name] = copies.get(value, value)
        elif isinstance(value, list):
            value[:] = [copies.get(item, item) if isinstance(item, nn.Module) else item for item in value]


def is_on_meta(model: nn.Module) -> bool:
    """Whether a tensor of a model is on the meta device, which has shapes and no numbers."""
    return any(getattr(owner, name).is_meta for _, owner, name in named_tensors(model))


def on_meta(model: nn.Module) -> nn.Module:
    """Return a replica whose tensors are on the meta device; those that are shared stay shared.

    >>> on_meta(nn.Linear(2, 2)).weight.is_meta
    True
    """
    twin, made = replicate(model), dict[int, Tensor]()
    for module in twin.modules():
        # Buffers that are not persistent as well: code computes with them and the others.
        for holder in (module._parameters, module._buffers):
            for name, own in holder.items():
                if own is None or own.is_meta:
                    continue
                if id(own) not in made:
                    bare = own.detach().to("meta")
                    made[id(own)] = nn.Parameter(bare, own.requires_grad) if isinstance(own, nn.Parameter) else bare
                holder[name] = made[id(own)]  # type: ignore[assignment]
    return twin


def run_fresh(replica: nn.Module, run: Callable[[], Result]) -> Result:
    """Run a replica with its caches emptied, such as attention biases that are computed once in eval mode.

    A cache is a dict of tensors that are no parameters. A model that needs one of them as it is runs with it.
    """
    caches = [
        (value, dict(value))
        for module in replica.modules()
        for name, value in vars(module).items()
        if isinstance(value, dict) and not name.startswith("_") and value and all(map(_is_computed, value.values()))
    ]
    for cache, _ in caches:
        cache.clear()
    try:
        return run()
    except Exception:
        if not caches:
            raise
        for cache, values in caches:
            cache.update(values)
        return run()


def _is_comparable(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers that `torch.equal` can compare: it is not on the meta device, and not sparse."""
    return not tensor.is_meta and tensor.layout is torch.strided


def _is_computed(value: object) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore a model's buffers (counters, statistics) and attributes at the end of the `with` block.

    Some models note the size of what they are run on (a window that was shrunk to a small map), and are another function
    from then on.

    >>> import torch
    >>> norm = nn.BatchNorm1d(1)
    >>> with unchanged(norm):
    ...     _ = norm(torch.tensor([[1.0], [3.0]]))
    >>> norm.running_mean
    tensor([0.])
    """
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if _is_comparable(buffer)]
    attributes = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for module, values, buffers in attributes:
            vars(module).clear()
            vars(module).update(values)
            module._buffers.clear()
            module._buffers.update(buffers)
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def named_tensors(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (path, owner, attribute) of every parameter and persistent buffer, each under every path that it has.

    A buffer that is not persistent is no part of a state dict: the code computes it, and both models have their own.
    """
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute in (*module._parameters, *module._buffers):
            if getattr(module, attribute, None) is not None and attribute not in module._non_persistent_buffers_set:
                yield (f"{path}.{attribute}" if path else attribute), module, attribute


def tensors_by_path(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and persistent buffer, by every path that it has."""
    return {path: getattr(owner, attribute) for path, owner, attribute in named_tensors(model)}
