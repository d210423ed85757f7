"""Sharded: load a model whose parameters are DTensors (FSDP2, tensor parallel), each rank the parts that it holds.

Every rank reads and computes the regions of its own shards alone, by `LazyState.part`, so that no rank holds the model. An
expression that mixes what the sharding cuts is evaluated for its whole tensor, which is dropped behind it. All ranks learn
whether any of them failed, and put their old values back then.

Communication: two collective exchanges of a few bytes, before the first tensor is written and after the last one.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from fxmap.errors import FxmapError, LoadError, shorten
from fxmap.expressions.regions import Region
from fxmap.mapping.findings import Findings
from fxmap.mapping.journal import Journal
from fxmap.mapping.lazy_state import LazyState
from fxmap.mapping.narrowing import refuse_narrowed
from fxmap.mapping.proof import Status
from fxmap.mapping.writing import Loaded, check_fits, refuse_strangers


def is_sharded(state: Mapping[str, Any]) -> bool:
    """Whether a value of a state dict is a DTensor, whose parts lie on several ranks."""
    return any(map(is_dtensor, state.values()))


def is_dtensor(value: object) -> bool:
    """Whether a value is a DTensor; torch.distributed is not imported for that."""
    return isinstance(value, Tensor) and hasattr(value, "device_mesh") and hasattr(value, "placements")


def load_sharded(dst: nn.Module, made: LazyState, findings: Findings) -> Loaded:
    """Load a lazy state into a model of DTensors; called on every rank.

    Raises:
        LoadError: keys, shapes or dtypes do not fit, or a rank failed, or ended; this rank's parts are as they were.
    """
    own = dst.state_dict()
    held: dict[str, list[Tensor]] = {}
    _together(lambda: _check(made, own, held))
    with Journal() as journal:
        try:
            _together(lambda: _write(made, own, held, journal))
        except BaseException:
            journal.restore()
            raise
    absent = [*findings.keys_with(Status.MISSING), *findings.keys_with(Status.MISMATCHED)]
    return Loaded(absent, list(findings.unexpected), len(made))


def _together(work: Callable[[], None]) -> None:
    """Do work on this rank, and tell the others how it went.

    Raises:
        FxmapError: of this rank; or a LoadError that names the ranks that failed, or says that one ended.
    """
    failure: BaseException | None = None
    try:
        work()
    except Exception as error:
        failure = error
    if not (dist.is_available() and dist.is_initialized()):
        if failure is not None:
            raise failure
        return
    said: list[Any] = [None] * dist.get_world_size()
    try:
        dist.all_gather_object(said, None if failure is None else f"{type(failure).__name__}: {failure}")
    except Exception as error:
        raise LoadError(
            f"another rank ended, or does not answer, while the model was loaded: {error}. The parts on this rank have "
            "their old values"
        ) from (failure or error)
    if isinstance(failure, FxmapError):
        raise failure
    failed = {rank: text for rank, text in enumerate(said) if text is not None}
    if failed:
        rank, text = next(iter(failed.items()))
        raise LoadError(
            f"{len(failed)} of {len(said)} ranks could not load their parts, rank {rank} because of {text}. The parts on "
            "this rank have their old values"
        ) from failure


def _check(made: LazyState, own: Mapping[str, Any], held: dict[str, list[Tensor]]) -> None:
    """Check all that can be known before the first write, and note which indices this rank holds."""
    refuse_strangers(made, own)
    for key in made:
        check_fits(key, made.lazy(key), own[key], numbers=False)
    partial = [key for key in made if is_dtensor(own[key]) and any(place.is_partial() for place in own[key].placements)]
    if partial:
        raise LoadError(
            f"{shorten(partial)}: its DTensor is a partial sum, which no single rank can write. Nothing was written; "
            "redistribute it to Shard or Replicate first"
        )
    held.update((key, held_here(key, own[key])) for key in made if is_dtensor(own[key]) and own[key].to_local().numel())


def _write(made: LazyState, own: Mapping[str, Any], held: Mapping[str, list[Tensor]], journal: Journal) -> None:
    with torch.no_grad():
        for key in made:
            local = own[key].to_local() if is_dtensor(own[key]) else own[key]
            if not local.numel():
                continue
            part = _part_of(made, key, held.get(key))
            refuse_narrowed(key, part, local)
            journal.save(key, local)
            local.copy_(part)


def _part_of(made: LazyState, key: str, held: list[Tensor] | None) -> Tensor:
    """Return the part of a tensor that this rank holds."""
    if held is None:
        value: Tensor = made[key]
        return value
    region = _region(held)
    if region is not None:
        return made.part(key, region)
    value = made[key]
    for axis, indices in enumerate(held):
        value = value.index_select(axis, indices)
    return value


def region_of(key: str, own: Any) -> Region | None:
    """Return the part of a DTensor that this rank holds, as a block; None where it is none.

    Raises:
        LoadError: as `held_here`.
    """
    return _region(held_here(key, own))


def held_here(key: str, own: Any) -> list[Tensor]:
    """Return which indices of each axis of a DTensor this rank holds.

    Raises:
        LoadError: torch cannot tell, or the tensor on this rank has another shape, so that the mesh does not divide it as
            torch would.
    """
    how = f"{key}: {list(own.shape)} as {list(own.placements)} on a mesh of {list(own.device_mesh.shape)}"
    advice = "Nothing was written; shard it by torch (fully_shard, distribute_tensor), on a mesh that divides its axes"
    try:
        held = [held_indices(own, axis) for axis in range(own.dim())]
    except Exception as error:
        raise LoadError(f"{how}: torch cannot tell which part this rank holds: {error}. {advice}") from error
    here, wanted = list(own.to_local().shape), [len(indices) for indices in held]
    if here != wanted:
        raise LoadError(f"{how}: this rank has {here}, and would have {wanted}. {advice}")
    return held


def held_indices(own: Any, axis: int) -> Tensor:
    """Return which indices of an axis this rank holds, by letting torch distribute the numbers of that axis.

    Offsets alone do not tell: shards of shards (FSDP of tensor parallel) need not be blocks.
    """
    from torch.distributed.tensor import Replicate, distribute_tensor

    shape = [1] * own.dim()
    shape[axis] = own.shape[axis]
    here = [place if getattr(place, "dim", None) == axis else Replicate() for place in own.placements]
    numbers = torch.arange(own.shape[axis], device=own.device_mesh.device_type).reshape(shape)
    found: Tensor = distribute_tensor(numbers, own.device_mesh, here, src_data_rank=None).to_local()
    return found.reshape(-1).cpu()


def _region(indices: Collection[Tensor]) -> Region | None:
    """Return the indices of all axes as a block; None where those of one are not consecutive."""
    region = []
    for held in indices:
        start, count = int(held[0]) if len(held) else 0, len(held)
        if not torch.equal(held, torch.arange(start, start + count)):
            return None
        region.append((start, start + count))
    return tuple(region)
