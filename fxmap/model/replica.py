"""Replica: a copy of a model's tree of modules that runs the user's code, and that may be changed.

Capture and proof change a model: they switch it to eval, drop observers, exchange weights; and its own forward may write to
its tensors, its counters, its caches. They do so to the replica, and the user's model keeps its mode, its hooks and its
values. A replica has tensor objects of its own. Large ones lie in the memory of the user's until something writes to them
(`on_own_memory`), so that a replica takes next to no memory; what else the modules hold is copied.

Cost: linear in the number of modules, and in what they hold beside tensors.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fxmap.model.copying import Copier
from fxmap.model.memory import alias, attributes_of, own_memory, owned
from fxmap.model.restoring import carry_out, let_through

Result = TypeVar("Result")


Replace = Callable[[str, nn.Module], nn.Module | None]


def replicate(model: nn.Module, replace: Replace = lambda path, module: None, *, own: bool = False) -> nn.Module:
    """Copy the module tree, with tensors that share the memory of the user's, or with `own` memory.

    `replace(path, module)` may return a module to put in the place of one (and of everything below it), or None. A module
    that occurs at several paths is copied once, and stays shared; so does a tensor. `copy.deepcopy` would double the memory,
    and fails on old-style weight norm after a forward pass. O(number of modules).

    Run a replica inside `on_own_memory`, or make it with `own`.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    >>> twin = replicate(model).eval()
    >>> model.training, twin.training, twin[0].weight is model[0].weight
    (True, False, False)
    >>> torch.equal(twin[0].weight, model[0].weight)
    True
    """
    copier = Copier(lambda module: _shells("", module, copier, _kept), owned)
    root = _shells("", model, copier, replace)
    if own:
        own_memory(root)
    return root


def _kept(path: str, module: nn.Module) -> None:
    """Replace no module."""


def _shells(path: str, model: nn.Module, copier: Copier, replace: Replace) -> nn.Module:
    """Copy a tree of modules with its tensors, and then what the modules hold beside them, which may point anywhere."""
    originals: list[nn.Module] = []

    def copy(path: str, module: nn.Module) -> nn.Module:
        if id(module) in copier.copied:
            known: nn.Module = copier.copied[id(module)]
            return known
        made = replace(path, module)
        if made is not None:
            # It may hold modules of the user.
            own = made if id(made) in copier.made else _shells("", made, copier, _kept)
            return copier.remember(module, own)  # type: ignore[no-any-return]
        if isinstance(module, torch.jit.ScriptModule):
            return copier.remember(module, deepcopy(module))  # type: ignore[no-any-return]
        twin = _shell(module, copier)
        originals.append(module)
        for name, child in module._modules.items():
            twin._modules[name] = None if child is None else copy(f"{path}.{name}" if path else name, child)
        return twin

    root = copy(path, model)
    for module in originals:
        _copy_attributes(module, copier)
    return root


def _shell(module: nn.Module, copier: Copier) -> nn.Module:
    """Make a module of the same class with tensor objects of its own, and without children."""
    # Not copy.copy: GraphModule and quantized modules override it, and the former would re-trace.
    twin: nn.Module = copier.remember(module, object.__new__(type(module)))
    twin.__dict__ = dict(vars(module))
    # An exported module refuses both by attributes of its own, since they do nothing to its graph; and a compiled module
    # would run the user's.
    for name in ("train", "eval", "_compiled_call_impl"):
        twin.__dict__.pop(name, None)
    for name in _TABLES:
        twin.__dict__[name] = vars(module)[name].copy()
    twin._modules.clear()
    tables: tuple[dict[str, Any], ...] = (twin._parameters, twin._buffers)
    for table in tables:
        for name, tensor in table.items():
            if isinstance(tensor, Tensor) and id(tensor) not in copier.made:
                table[name] = copier.copied[id(tensor)] if id(tensor) in copier.copied else _alias(tensor, copier)
    return twin


def _alias(tensor: Tensor, copier: Copier) -> Tensor:
    return copier.remember(tensor, alias(tensor))  # type: ignore[no-any-return]


# Where a module keeps its parameters, buffers and submodules.
_TABLES = ("_parameters", "_buffers", "_modules")


def _copy_attributes(module: nn.Module, copier: Copier) -> None:
    twin = copier.copied[id(module)]
    for name, value in vars(twin).items():
        if name in _TABLES:
            continue
        try:
            vars(twin)[name] = copier.copy(value)
        except RecursionError:  # nested so deeply that Python cannot follow: it stays shared
            continue


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


def run_fresh(replica: nn.Module, run: Callable[[], Result], tables: Iterable[dict[Any, Any]] | None = None) -> Result:
    """Run a replica with its caches emptied, such as attention biases that are computed once in eval mode.

    A cache is a dict of tensors that are no parameters. A model that needs one of them as it is runs with it. `tables` are
    the dicts that its modules hold, if they are known.
    """
    found = tables_of(replica) if tables is None else tables
    caches = [(value, dict(value)) for value in found if value and all(map(_is_computed, value.values()))]
    for cache, _ in caches:
        cache.clear()
    try:
        return run()
    except Exception as error:
        let_through(error)
        if not caches:
            raise
        for cache, values in caches:
            cache.update(values)
        return run()


def tables_of(replica: nn.Module) -> list[dict[Any, Any]]:
    """Return the dicts that modules hold by names without an underscore."""
    return [
        value
        for module in replica.modules()
        for name, value in vars(module).items()
        if isinstance(value, dict) and not name.startswith("_")
    ]


def _is_comparable(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers that `torch.equal` can compare: it is not on the meta device, and not sparse."""
    return not tensor.is_meta and tensor.layout is torch.strided


def _is_computed(value: object) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)


@contextmanager
def unchanged(
    model: nn.Module, buffers: Iterable[Tensor] | None = None, modules: Iterable[nn.Module] | None = None
) -> Iterator[None]:
    """Restore a model's buffers (counters, statistics) and attributes at the end of the `with` block.

    `buffers` are those that may change, if not all of them, and `modules` those of the model, if they are known.

    Some models note the size of what they are run on (a window that was shrunk to a small map), and are another function
    from then on.

    >>> norm = nn.BatchNorm1d(1)
    >>> with unchanged(norm):
    ...     _ = norm(torch.tensor([[1.0], [3.0]]))
    >>> norm.running_mean
    tensor([0.])
    """
    with torch._C.DisableTorchFunction():
        kept = [buffer for buffer in (model.buffers() if buffers is None else buffers) if _is_comparable(buffer)]
        steps = [partial(_put_back, buffer, buffer.detach().clone()) for buffer in kept]
    own = [
        (table, dict(table) if table else _NOTHING)
        for module in (model.modules() if modules is None else modules)
        if not isinstance(module, torch.jit.ScriptModule)
        for table in (vars(module), module._parameters, module._buffers, module._modules)
    ]
    try:
        yield
    finally:
        with torch._C.DisableTorchFunction():
            carry_out([partial(_restore, own), *steps])


_NOTHING: dict[str, Any] = {}


def _restore(tables: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for table, before in tables:
        table.update(before)
        if len(table) > len(before):
            for name in [name for name in table if name not in before]:
                del table[name]


def _put_back(buffer: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        if buffer.shape != value.shape or buffer.dtype != value.dtype:
            buffer.data = value.clone()  # code has given it other memory
        elif not torch.equal(buffer, value):
            buffer.copy_(value)


def named_tensors(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (path, owner, attribute) of every parameter and persistent buffer, each under every path that it has.

    A buffer that is not persistent is no part of a state dict: the code computes it, and both models have their own.
    """
    for path, module in model.named_modules(remove_duplicate=False):
        left_out: Collection[str] = getattr(module, "_non_persistent_buffers_set", ())
        for attribute in attributes_of(module):
            if getattr(module, attribute, None) is not None and attribute not in left_out:
                yield (f"{path}.{attribute}" if path else attribute), module, attribute


def held_by_path(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer, of the state dict or not, by every path that it has."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def tensors_by_path(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and persistent buffer, by every path that it has."""
    return {path: getattr(owner, attribute) for path, owner, attribute in named_tensors(model)}
