"""Folders of torch.distributed.checkpoint: tensors in pieces, as many ranks wrote them, read region by region.

The folder's `.metadata` is a pickle, of which torch would run the code; here it may name the classes of such metadata alone.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import CheckpointError, shorten
from fxmap.expressions.regions import Region, cut, extents
from fxmap.files.format import Format, reason_of
from fxmap.files.lazy import LazyTensor, materialise

_ALLOWED = {
    "collections": {"OrderedDict"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}


class _Unpickler(pickle.Unpickler):
    """Reads pickles of metadata: classes that hold facts, and constants of torch."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        constant = getattr(torch, name, None) if module == "torch" else None
        if constant is torch.Size or isinstance(constant, torch.dtype | torch.layout | torch.memory_format):
            return constant
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which is no part of such metadata")


def _lazy(path: Path) -> Any:
    """Return lazy tensors in the containers that were saved; values that are no tensors are left out."""
    from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

    try:
        with path.open("rb") as file:
            metadata = _Unpickler(file).load()
    except Exception as error:
        # A damaged pickle fails in whatever way its bytes say: each of them is a fault of the file.
        raise CheckpointError(f"{path}: no metadata of torch.distributed.checkpoint: {reason_of(error)}") from error
    if not isinstance(metadata, Metadata):
        raise CheckpointError(f"{path}: no metadata of torch.distributed.checkpoint, but a {type(metadata).__name__}")
    _refuse_absent_files(path, metadata)
    places = metadata.planner_data if isinstance(metadata.planner_data, Mapping) else {}
    found: dict[Any, Any] = {}
    for key, entry in metadata.state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata):
            *containers, last = places.get(key, (key,))
            inner = found
            for name in containers:
                inner = inner.setdefault(name, {})
            inner[last] = LazyTensor(entry.size, entry.properties.dtype, _Pieces(path.parent, metadata, key).read)
    return found


def _refuse_absent_files(path: Path, metadata: Any) -> None:
    names = dict.fromkeys(str(info.relative_path) for info in (metadata.storage_data or {}).values())
    outside = [name for name in names if Path(name).name != name or name in ("", ".", "..")]
    if outside:
        raise CheckpointError(f"{path}: {outside[0]!r} is not the name of a file beside it")
    absent = [name for name in names if not (path.parent / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{path.parent}: {len(absent)} of {len(names)} files are not there: {shorten(absent)}. Fetch them into it"
        )


class _Pieces:
    """The pieces of one tensor, of which torch's reader finds those that a region needs."""

    def __init__(self, folder: Path, metadata: Any, key: str) -> None:
        self.folder, self.metadata, self.key = folder, metadata, key

    def read(self, region: Region) -> Tensor:
        """Read a region into memory of its own.

        Raises:
            CheckpointError: a file is gone or broken, or the pieces leave a part of the region out.
        """
        from torch.distributed.checkpoint.filesystem import FileSystemReader
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata
        from torch.distributed.checkpoint.planner import LoadPlan
        from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

        entry = self.metadata.state_dict_metadata[self.key]
        made = torch.empty(extents(region), dtype=entry.properties.dtype)
        if not made.numel():
            return made
        wanted = ChunkStorageMetadata(torch.Size(start for start, _ in region), made.shape)
        items = create_read_items_for_chunk_list(self.key, entry, [wanted])
        if sum(torch.Size(item.lengths).numel() for item in items) != made.numel():
            raise CheckpointError(f"{self.folder}: {self.key}: its pieces leave a part of it out")
        try:
            reader = FileSystemReader(self.folder)
            reader.set_up_storage_reader(self.metadata, True)
            reader.read_data(LoadPlan(items), _planner(made)).wait()
        except Exception as error:
            # What is wrong with a file shows as whatever error reading its bytes raises.
            raise CheckpointError(f"{self.folder}: {self.key}: cannot be read: {reason_of(error)}") from error
        return made


def _planner(made: Tensor) -> Any:
    """Return a planner of torch that puts every piece to its place in a tensor."""
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

    class Planner(DefaultLoadPlanner):
        def resolve_tensor(self, read_item: Any) -> Tensor:
            places = zip(read_item.dest_offsets, read_item.lengths, strict=True)
            return cut(made, tuple((start, start + length) for start, length in places))

        def commit_tensor(self, read_item: Any, tensor: Tensor) -> None:
            pass

    return Planner()


def _read(path: Path) -> Any:
    return _materialised(_lazy(path))


def _materialised(data: Any) -> Any:
    return {key: _materialised(value) for key, value in data.items()} if isinstance(data, dict) else materialise(data)


DCP = Format(
    name="torch.distributed.checkpoint",
    suffixes=(".metadata",),
    holds="tensors in pieces, in files that lie beside it",
    read=_read,
    lazy=_lazy,
)
