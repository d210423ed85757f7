"""Tables: state of one model that the other model has as well, although no mapping reads it.

A model may keep in its state dict what its code could compute: numbers of positions, relative positions, rotary
frequencies, a causal mask. Another implementation keeps the same numbers elsewhere, or computes them. Such a table needs no
mapping; state that the other model has nowhere does.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from fxmap.graph.constants import Constants
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status
from fxmap.matching.plan import Plan
from fxmap.matching.sides import Side
from fxmap.model.tensors import is_whole

# Tables in single precision are made in several ways, and differ by rounding.
_ROUNDING = 1e-5


def without_counterpart(plan: Plan, paths: Sequence[str]) -> list[str]:
    """Return the source tensors, by path, whose numbers the destination holds nowhere.

    Causal masks, which code can make, and tensors on the meta device need no counterpart.
    """
    tables = {path: plan.src.main.tensors[path].detach() for path in paths}
    rest = {path: table for path, table in tables.items() if not table.is_meta and not _is_triangular(table)}
    for other in _constants(plan.dst) if rest else ():
        rest = {path: table for path, table in rest.items() if not _same_numbers(table, other)}
    return list(rest)


def _constants(side: Side) -> Iterator[Tensor]:
    """Yield the tensors of a model that no mapping makes: buffers, constants of its graph, and values computed from them."""
    main = side.main
    kept = {path: tensor for path, tensor in main.module.named_buffers() if path not in main.tensors or path in main.read}
    yield from kept.values()
    yield from main.constants.values()
    known = Constants(main.graph, main.tensors, main.constants, buffers=True)
    for node in known.nodes:
        try:
            value = known.value(node)
        except (RuntimeError, NotImplementedError):
            continue  # on the meta device
        if isinstance(value, Tensor):
            yield value


def _same_numbers(table: Tensor, other: Tensor) -> bool:
    """Whether two tables hold the same numbers in the same order, or one is a prefix of the other, as for positions."""
    if other.is_meta or table.is_complex() != other.is_complex():
        return False
    count = min(table.numel(), other.numel())
    is_list = all(t.numel() == max(t.shape, default=1) for t in (table, other))
    if count < 2 or (table.numel() != other.numel() and not is_list):
        return False
    one, two = (t.detach().flatten()[:count] for t in (table, other))
    if bool((one == one[0]).all()):
        return False  # a gate of ones is like any other
    if not one.is_floating_point() and not two.is_floating_point():
        return bool(torch.equal(one.long(), two.long()))
    if one.is_complex():
        return bool(torch.allclose(one, two.to(one.dtype), rtol=_ROUNDING, atol=_ROUNDING))
    return bool(torch.allclose(one.double(), two.double(), rtol=_ROUNDING, atol=_ROUNDING))


def _is_triangular(table: Tensor) -> bool:
    """Whether a table is a triangular mask, of all positions before or after each position."""
    if table.dim() < 2 or table.shape[-1] != table.shape[-2] or table.shape[-1] < 2 or table.is_complex():
        return False
    flags = table.reshape(-1, *table.shape[-2:])[0] != 0
    ones = torch.ones_like(flags)
    return any(bool(torch.equal(flags, made(ones, k))) for made in (torch.tril, torch.triu) for k in (-1, 0, 1))


def kept_tables(mapping: KeyMapping, dst: Side) -> set[str]:
    """Return the keys of integers that nothing is mapped to: the runs show what the destination's own ones do."""
    kept = (key for key, status in mapping.knowledge.statuses.items() if status is Status.KEPT and key not in mapping)
    own = {dst.prefix + key: dst.names(key) for key in dst.twin.stores}
    return {key for key in kept if key in own and all(is_whole(dst.main.tensors[part]) for part in own[key])}


def extra_state(model: nn.Module) -> list[str]:
    """Return the state dict keys of extra state (`get_extra_state`), which no mapping carries over.

    >>> extra_state(nn.Linear(2, 2))
    []
    """
    found = []
    for path, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            value = module.get_extra_state()
            if value is not None and not (isinstance(value, Tensor) and not value.numel()):
                found.append(f"{path}.{_EXTRA_STATE}".lstrip("."))
    return found


# What torch calls it in a state dict.
_EXTRA_STATE = "_extra_state"
