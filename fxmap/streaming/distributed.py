"""Folders of torch.distributed.checkpoint, written tensor by tensor: any number of ranks may read them.

torch's writer is given tensors without numbers, and a planner that makes each of them when it is written. Every tensor has a
file of its own, since torch keeps the tensors of a file until it is whole.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import CheckpointError, FxmapError
from fxmap.files.atomic import sync
from fxmap.files.lazy import materialise
from fxmap.streaming.folder import Progress, Work, fitting, refuse_lack_of_room
from fxmap.streaming.output import being_written, refuse_taken, take_place


def write_distributed(work: Work, output: Path, progress: Progress, *, overwrite: bool = False) -> None:
    """Write the tensors of some work as a folder of torch.distributed.checkpoint, which appears when it is whole.

    Raises:
        LoadError: a value does not fit the dtype.
        CheckpointError: the output is there already, another conversion writes it, the disk is full, or a source cannot be
            read. Nothing is left of it.

    Memory: the largest tensor, twice where its dtype is converted.
    """
    with being_written(output) as partial:
        refuse_taken(output, overwrite=overwrite)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            refuse_lack_of_room(partial, work.shards, {})
            _write_into(partial, work, progress)
            take_place(partial, output, overwrite=overwrite)
        except OSError as error:
            raise CheckpointError(f"{output}: cannot be written: {error}. Nothing is left of it") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write_into(partial: Path, work: Work, progress: Progress) -> None:
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    entries = {entry.key: entry for shard in work.shards for entry in shard.entries}
    total, done = sum(entry.nbytes for entry in entries.values()), 0

    def make(key: str) -> Tensor:
        nonlocal done
        value = fitting(entries[key], materialise(work.make(key)))
        done += entries[key].nbytes
        progress(done, total, key)
        return value

    bare = {key: torch.empty(entry.shape, dtype=entry.dtype, device="meta") for key, entry in entries.items()}
    writer = FileSystemWriter(partial, single_file_per_rank=False, sync_files=False)
    _saved(lambda: save(bare, storage_writer=writer, planner=_planner(make), no_dist=True))
    for path in partial.iterdir():
        sync(path)


def _planner(make: Callable[[str], Tensor]) -> Any:
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

    class Planner(DefaultSavePlanner):
        """Makes a tensor when it is written."""

        def resolve_data(self, write_item: Any) -> Tensor:
            return make(write_item.index.fqn)

    return Planner()


def _saved(save: Callable[[], object]) -> None:
    """Let torch save; what stopped it is raised as it is, not as the exception of all ranks that torch makes of it.

    Raises:
        FxmapError, OSError: from the planner or the file system.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        save()
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        for cause in causes:
            if isinstance(cause, FxmapError | OSError):
                raise cause from error
        said = "; ".join(f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}" for cause in causes)
        text = f"torch.distributed.checkpoint could not write it: {said}. Nothing is left of it; look for a full disk"
        raise CheckpointError(text) from error
