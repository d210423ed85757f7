"""Arrays of NumPy: .npz archives and single .npy files; arrays of Python objects, whose pickle is code, are not read."""

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from torch import Tensor

from fxmap.errors import CheckpointError
from fxmap.expressions.regions import Region, cut
from fxmap.files.arrays import dtype_of, numbers_of, tensor_of, weights_of
from fxmap.files.format import Format, reason_of
from fxmap.files.growth import refuse_growth
from fxmap.files.lazy import LazyTensor
from fxmap.files.stored import Stored
from fxmap.files.unchanged import Stamp

# Of a member's own header in a zip file: 30 bytes, and where in them stand the lengths of the name and of the rest.
_LOCAL, _LENGTHS = 30, 26
# The name of the array in a file that holds one without a name.
_ALONE = "array"


@dataclass(frozen=True, slots=True)
class _Header:
    shape: tuple[int, ...]
    by_columns: bool
    dtype: "np.dtype[Any]"
    length: int

    @classmethod
    def of(cls, stream: IO[bytes]) -> "_Header":
        """Read the header of an .npy file; its text is a literal, and nothing of it is run."""
        version = npy.read_magic(stream)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"version {version} of the format of arrays")
        shape, by_columns, dtype = read(stream)
        if any(extent < 0 for extent in shape):
            raise ValueError(f"the shape {shape}")
        return cls(tuple(shape), by_columns, dtype, stream.tell())


@dataclass(frozen=True, slots=True)
class _Member:
    """An array whose bytes do not lie in the file as a tensor's do: compressed, by columns, or of another machine."""

    path: Path
    stamp: Stamp
    name: str | None
    header: _Header

    def read(self, region: Region) -> Tensor:
        """Read all of the array, and return a region of it.

        Raises:
            CheckpointError: the file was changed, or is damaged there.
        """
        self.stamp.check(self.path)
        try:
            if self.name is None:
                array = np.load(self.path, allow_pickle=False)
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.name) as stream:
                    array = npy.read_array(stream, allow_pickle=False)
            return cut(tensor_of(array), region).clone()
        except Exception as error:  # zlib's and numpy's own kinds of errors on damage
            raise CheckpointError(f"{self.path}: {self.name or 'its array'}: cannot be read: {reason_of(error)}") from error


def _lazy(path: Path) -> Mapping[str, Any]:
    try:
        return _archive(path) if zipfile.is_zipfile(path) else _single(path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged archive fails in whatever way its bytes say
        raise CheckpointError(f"{path}: not a readable file of NumPy: {reason_of(error)}") from error


def _archive(path: Path) -> Mapping[str, Any]:
    stamp = Stamp.of(path)
    found: dict[str, Tensor] = {}
    refused = []
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as stream:
                header = _Header.of(stream)
            if dtype_of(header.dtype) is None:
                refused.append(name)
                continue
            _refuse_cut_off(name, header, member.file_size)
            file.seek(member.header_offset + _LENGTHS)
            begin = member.header_offset + _LOCAL + sum(struct.unpack("<HH", file.read(4)))
            stored = member.compress_type == zipfile.ZIP_STORED
            found[name] = _tensor(path, stamp, member.filename, header, begin if stored else None)
    if refused and not found:
        raise CheckpointError(_OBJECTS.format(path=path, name=refused[0]))
    return weights_of(found)


def _single(path: Path) -> Mapping[str, Any]:
    stamp = Stamp.of(path)
    with path.open("rb") as stream:
        header = _Header.of(stream)
    if dtype_of(header.dtype) is None:
        raise CheckpointError(_OBJECTS.format(path=path, name="its array"))
    _refuse_cut_off("its array", header, stamp.size)
    return {_ALONE: _tensor(path, stamp, None, header, 0)}


_OBJECTS = (
    "{path}: {name} holds Python objects or text: reading them would run code. Save numbers alone where it comes from: "
    "numpy.savez(path, **{{name: array}})"
)


def _tensor(path: Path, stamp: Stamp, name: str | None, header: _Header, begin: int | None) -> LazyTensor:
    dtype = dtype_of(header.dtype)
    assert dtype is not None
    plain = header.dtype.isnative and (not header.by_columns or len(header.shape) < 2)
    if begin is not None and plain:
        return Stored(path, stamp, begin + header.length, header.shape, dtype).lazy()
    return LazyTensor(header.shape, dtype, _Member(path, stamp, name, header).read)


def _refuse_cut_off(name: str, header: _Header, size: int) -> None:
    wanted = int(np.prod(header.shape, dtype=object)) * header.dtype.itemsize
    if header.length + wanted > size:
        raise ValueError(f"{name}: {wanted} bytes are announced, and {size - header.length} are there: cut off")


NUMPY = Format(
    name="NumPy",
    suffixes=(".npz", ".npy"),
    holds="arrays of numbers by name, as JAX's libraries save them; no Python objects",
    read=lambda path: numbers_of(_lazy(path), path),
    lazy=_lazy,
    guard=refuse_growth,
)
