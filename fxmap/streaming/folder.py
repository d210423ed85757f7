"""Folder: write the shards of a checkpoint into a folder that appears under its name when all of them are there.

Until then they lie in `.NAME.partial` beside it, with a list of the finished ones and their checksums. A later call with the
same mapping, source and options verifies these and writes the others; one with other options begins anew.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from fxmap.errors import CheckpointError, LoadError
from fxmap.files.lazy import materialise
from fxmap.files.stored import place_of
from fxmap.mapping.narrowing import refuse_narrowed
from fxmap.model.tensors import bytes_of
from fxmap.streaming.checksum import Checksum
from fxmap.streaming.output import being_written, refuse_taken, take_place
from fxmap.streaming.shards import Entry, Shard, index_of

# Called with the bytes that are done, the bytes in all, and what is being done.
Progress = Callable[[int, int, str], None]

_BLOCK = 4 << 20


@dataclass(frozen=True)
class Work:
    """What is to be written.

    Attributes:
        shards: the files.
        make: makes a tensor, which may be lazy, of any float dtype where that of the entry is one.
        identity: what the tensors are made from, in words: if it is another one, finished shards are not taken over.
    """

    shards: Sequence[Shard]
    make: Callable[[str], Tensor]
    identity: str

    def fingerprint(self) -> str:
        """Return a digest of all that decides what is written."""
        digest = hashlib.sha256(self.identity.encode())
        for shard in self.shards:
            digest.update(shard.name.encode() + shard.header())
        return digest.hexdigest()


def write_folder(work: Work, output: Path, progress: Progress, *, overwrite: bool = False) -> int:
    """Write the shards and their index; returns how many finished shards of an earlier run were taken over.

    Raises:
        LoadError: a value does not fit the dtype.
        CheckpointError: the output is there already, another conversion writes it, the disk is full, or a source cannot be
            read. Finished shards stay in `.NAME.partial`, for the next call; `output` is as it was.

    Memory: the largest tensor, twice where its dtype is converted.
    """
    with being_written(output) as partial:
        refuse_taken(output, overwrite=overwrite)
        try:
            return _write_into(partial, work, output, progress, overwrite)
        except OSError as error:
            kept = f"Finished shards are kept in {partial}; the same call goes on with them"
            left = kept if (partial / _LIST).exists() else "Nothing is left of it"
            raise CheckpointError(f"{output}: cannot be written: {error}. {left}") from error
        except LoadError:
            (partial / _LIST).unlink(missing_ok=True)  # the same call would fail again
            raise
        finally:
            if not (partial / _LIST).exists():
                shutil.rmtree(partial, ignore_errors=True)


def _write_into(partial: Path, work: Work, output: Path, progress: Progress, overwrite: bool) -> int:
    partial.mkdir(exist_ok=True)
    finished = _finished(partial, work)
    refuse_lack_of_room(partial, work.shards, finished)
    _write_shards(partial, work, finished, progress)
    if len(work.shards) > 1:
        with (partial / "model.safetensors.index.json").open("w", encoding="utf-8") as file:
            file.write(index_of(work.shards))
            file.flush()
            os.fsync(file.fileno())
    refuse_taken(output, overwrite=overwrite)  # while the shards are still known
    (partial / _LIST).unlink(missing_ok=True)
    take_place(partial, output, overwrite=overwrite)
    return len(finished)


# The list of finished shards, in the folder that is not finished.
_LIST = "finished.json"


def _finished(partial: Path, work: Work) -> dict[str, int]:
    """Return the checksums of the finished shards of an earlier run of the same work; anything else is removed."""
    try:
        known = json.loads((partial / _LIST).read_text(encoding="utf-8"))
        same = known["fingerprint"] == work.fingerprint()
        sums = {str(name): int(value) for name, value in known["shards"].items()} if same else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sums = {}
    good = {shard.name: sums[shard.name] for shard in work.shards if _is_whole(partial / shard.name, sums.get(shard.name))}
    kept = {*good, _LIST} if good else set()
    for path in partial.iterdir():
        if path.name not in kept and path.is_file():
            path.unlink()
    return good


def _is_whole(path: Path, checksum: int | None) -> bool:
    if checksum is None or not path.is_file():
        return False
    found = Checksum()
    with path.open("rb", buffering=0) as file:
        buffer = memoryview(bytearray(_BLOCK))
        while count := file.readinto(buffer):
            found.add(buffer[:count])
    return found.value == checksum


def refuse_lack_of_room(partial: Path, shards: Iterable[Shard], finished: Mapping[str, int]) -> None:
    """Raise a CheckpointError where the disk has not the room for the shards that are not finished."""
    needed = sum(shard.nbytes + len(shard.header()) for shard in shards if shard.name not in finished)
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise CheckpointError(
            f"{partial.parent}: {said(needed)} are to be written, and {said(free)} are free. Make room, or "
            "write a smaller dtype (--dtype)"
        )


def said(size: int) -> str:
    """Write a number of bytes in a unit that tells.

    >>> said(700), said(12_300), said(5_000_000_000)
    ('700 B', '12.3 kB', '5.0 GB')
    """
    if size < 1000:
        return f"{size} B"
    unit, scale = next((name, scale) for name, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if size >= scale)
    return f"{size / scale:.1f} {unit}"


def _write_shards(partial: Path, work: Work, finished: dict[str, int], progress: Progress) -> None:
    total, done, fingerprint = sum(shard.nbytes for shard in work.shards), 0, work.fingerprint()
    sums = dict(finished)
    for shard in work.shards:
        if shard.name in finished:
            done += shard.nbytes
            progress(done, total, f"{shard.name}: finished before")
            continue
        sums[shard.name] = _write_shard(partial, shard, work, lambda more: progress(more, total, shard.name), done)  # noqa: B023
        done += shard.nbytes
        temporary = partial / f"{_LIST}.part"
        temporary.write_text(json.dumps({"fingerprint": fingerprint, "shards": sums}), encoding="utf-8")
        os.replace(temporary, partial / _LIST)


def _write_shard(partial: Path, shard: Shard, work: Work, progress: Callable[[int], None], done: int) -> int:
    """Write one file, which has its name when it is whole; returns its checksum."""
    temporary = partial / f"{shard.name}.part"
    with temporary.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as beside:
        summed = _Summed(file, beside)
        summed.write(memoryview(shard.header()))
        for entry in shard.entries:
            _write_tensor(entry, work.make(entry.key), summed)
            done += entry.nbytes
            progress(done)
        # Before it is called finished: what a disk could not take is lost, and a file that is read again does not show it.
        os.fsync(file.fileno())
    os.replace(temporary, partial / shard.name)
    return summed.checksum.value


def _write_tensor(entry: Entry, value: Tensor, summed: "_Summed") -> None:
    """Write a tensor in the dtype of its entry; one that lies in a file as it is has no memory of its own."""
    place = place_of(value) if value.dtype == entry.dtype and tuple(value.shape) == entry.shape else None
    if place is None:
        summed.write(bytes_of(fitting(entry, materialise(value))))
    else:
        stored, region = place
        stored.copy(region, summed.file.fileno(), summed.buffer, summed.beside, summed.add)


class _Summed:
    """A file that is written from begin to end, and the checksum of what was.

    Its buffer and its thread are those of all tensors: to make them for each took longer than to copy it.
    """

    def __init__(self, file: IO[bytes], beside: Executor) -> None:
        self.file, self.beside, self.checksum = file, beside, Checksum()
        self.buffer = memoryview(bytearray(_BLOCK))

    def add(self, block: memoryview) -> None:
        """Count bytes that were written to the file by other means."""
        self.checksum.add(block)

    def write(self, data: memoryview) -> None:
        for begin in range(0, len(data), _BLOCK):
            block = data[begin : begin + _BLOCK]
            self.add(block)  # while it is in the processor's cache
            _write_all(self.file, block)


def _write_all(file: IO[bytes], block: memoryview) -> None:
    while len(block):
        block = block[file.write(block) :]


def fitting(entry: Entry, value: Tensor) -> Tensor:
    """Return a value in the dtype of its entry.

    Raises:
        CheckpointError: it has another shape than was announced.
        LoadError: it has numbers beyond what the dtype can hold.
    """
    if tuple(value.shape) != entry.shape:
        raise CheckpointError(f"{entry.key}: {list(value.shape)} instead of {list(entry.shape)}: the source was changed")
    value = value.detach().cpu()
    if value.dtype == entry.dtype:
        return value
    refuse_narrowed(entry.key, value, torch.empty(0, dtype=entry.dtype))
    return value.to(entry.dtype)
