"""A load planner of torch.distributed.checkpoint: a checkpoint with the source's names into tensors of the destination's.

Idea: an expression is evaluated twice. The first time, when the plan is made, its sources are tensors without numbers that
note which of their regions are asked for; these regions are what torch's storage reader is told to read. The second time,
when all of them are there, it makes the numbers, which are copied to their place, and the regions are dropped. So a rank
reads what its own parts need, from whatever storage torch can read.

Memory: of each tensor whose regions have begun to arrive, these regions.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import LoadError, MappingError, shorten
from fxmap.expressions.base import Expression
from fxmap.expressions.regions import Region, cut, evaluate_region, extents, whole
from fxmap.expressions.values import FAULTS
from fxmap.files.lazy import LazyTensor, materialise
from fxmap.mapping.lazy_state import description
from fxmap.mapping.narrowing import refuse_narrowed
from fxmap.mapping.sharded import is_dtensor, region_of
from fxmap.model.wrappers import match_prefix

logger = logging.getLogger(__name__)

# What of a source a region of the destination needs: the source's key, and its region.
Request = tuple[str, Region]


@dataclass
class _Wanted:
    """A tensor of the destination: what it needs, and what of that is there."""

    key: str
    local: Tensor
    region: Region
    requests: tuple[Request, ...] = ()
    parts: dict[Request, Tensor] = field(default_factory=dict)
    missing: int = 0


def load_planner(mapping: Mapping[str, Expression]) -> Any:
    """Return a planner for `torch.distributed.checkpoint.load`."""
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.planner import LoadPlan

    class Planner(DefaultLoadPlanner):
        """Reads the regions that the mapping needs, and evaluates it where they are there."""

        def create_local_plan(self) -> Any:
            assert self.metadata is not None
            entries = self.metadata.state_dict_metadata
            self.loading = Loading(mapping, entries, self.state_dict)
            return LoadPlan(self.loading.items())

        def resolve_tensor(self, read_item: Any) -> Tensor:
            return self.loading.place(read_item)

        def commit_tensor(self, read_item: Any, tensor: Tensor) -> None:
            self.loading.arrived(read_item)

    return Planner()


class Loading:
    """One load: the tensors that are wanted, and the regions of the source's tensors that they need."""

    def __init__(self, mapping: Mapping[str, Expression], entries: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        self.mapping, self.entries = mapping, entries
        sources = {key for expression in mapping.values() for key in expression.sources()}
        self.names, _ = match_prefix({name: name for name in entries}, sources)
        absent = sorted(sources - self.names.keys())
        if absent:
            raise MappingError(
                f"{shorten(absent)}: not in the checkpoint, which holds {len(entries)} tensors such as "
                f"{shorten(sorted(entries))}. The mapping is of another checkpoint"
            )
        left = [key for key in state if key not in mapping]
        if left:
            logger.info("%s: nothing is made of the source; the values stay as they are", shorten(left))
        self.wanted: dict[str, _Wanted] = {}
        for key, value in state.items():
            if key in mapping and isinstance(value, Tensor):
                self._want(key, value)

    def _want(self, key: str, value: Tensor) -> None:
        shape = tuple(value.shape)
        local: Tensor = value.to_local() if is_dtensor(value) else value  # type: ignore[attr-defined]
        if not local.numel():
            return
        region = region_of(key, value) if is_dtensor(value) else whole(shape)
        if region is None:
            raise LoadError(f"{key}: the part on this rank is no block of the tensor. Load it with mapping.load_into(model)")
        wanted, found = _Wanted(key, local.detach(), region), list[Request]()
        expression = self.mapping[key]
        state = {name: self._bare(name, found) for name in expression.sources()}
        described = description(expression, state)
        if described is not None and tuple(described.shape) != shape:
            raise LoadError(f"{key}: source {list(described.shape)}, destination {list(shape)}. Nothing was written")
        _evaluated(wanted, expression, state)
        wanted.requests = tuple(dict.fromkeys(found))
        self.wanted[key] = wanted

    def _bare(self, name: str, found: list[Request]) -> Tensor:
        """Return a tensor that notes which of its regions are read."""
        entry = self.entries[self.names[name]]

        def note(region: Region) -> Tensor:
            found.append((name, region))
            return torch.zeros((), dtype=entry.properties.dtype).expand(extents(region))

        return LazyTensor(tuple(entry.size), entry.properties.dtype, note)

    def items(self) -> list[Any]:
        """Return what torch has to read; the name of a target is the key of the tensor, and the number of the request."""
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata
        from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

        made = []
        for wanted in self.wanted.values():
            for number, (name, region) in enumerate(wanted.requests):
                chunk = ChunkStorageMetadata(torch.Size(start for start, _ in region), torch.Size(extents(region)))
                entry = self.entries[self.names[name]]
                pieces = create_read_items_for_chunk_list(self.names[name], entry, [chunk])
                if sum(torch.Size(piece.lengths).numel() for piece in pieces) != chunk.sizes.numel():
                    raise LoadError(f"{name}: the pieces in the checkpoint leave a part of it out")
                for piece in pieces:
                    target = type(piece.dest_index)(f"{number}:{wanted.key}", piece.dest_index.offset)
                    made.append(replace(piece, dest_index=target))
                wanted.missing += len(pieces)
        return made

    def place(self, item: Any) -> Tensor:
        """Return where torch shall put a piece."""
        wanted, request = self._of(item)
        if request not in wanted.parts:
            dtype = self.entries[self.names[request[0]]].properties.dtype
            wanted.parts[request] = torch.empty(extents(request[1]), dtype=dtype)
        spans = zip(item.dest_offsets, item.lengths, strict=True)
        return cut(wanted.parts[request], tuple((start, start + length) for start, length in spans))

    def arrived(self, item: Any) -> None:
        """Note that a piece is there; when it was the last one, make the tensor."""
        wanted, _ = self._of(item)
        wanted.missing -= 1
        if wanted.missing:
            return
        expression = self.mapping[wanted.key]
        state = {name: self._read(wanted, name) for name in expression.sources()}
        made = _evaluated(wanted, expression, state)
        refuse_narrowed(wanted.key, made, wanted.local)
        with torch.no_grad():
            wanted.local.copy_(made)
        wanted.parts.clear()

    def _read(self, wanted: _Wanted, name: str) -> Tensor:
        entry = self.entries[self.names[name]]
        return LazyTensor(tuple(entry.size), entry.properties.dtype, lambda region: wanted.parts[name, region])

    def _of(self, item: Any) -> tuple[_Wanted, Request]:
        number, _, key = item.dest_index.fqn.partition(":")
        wanted = self.wanted[key]
        return wanted, wanted.requests[int(number)]


def _evaluated(wanted: _Wanted, expression: Expression, state: Mapping[str, Any]) -> Tensor:
    """Evaluate the region that is wanted.

    Raises:
        LoadError: the expression cannot be evaluated without its numbers, or with them.
    """
    try:
        made: Tensor = materialise(evaluate_region(expression, state, wanted.region))
    except FAULTS as error:
        raise LoadError(
            f"{wanted.key} = {expression}: cannot be made from parts of its sources: {type(error).__name__}: {error}. "
            "Load it with mapping.load_into(model, checkpoint), which reads them whole"
        ) from error
    if not isinstance(made, Tensor) or made.shape != wanted.local.shape:
        raise LoadError(f"{wanted.key} = {expression}: makes no tensor of the shape {list(wanted.local.shape)}")
    return made
