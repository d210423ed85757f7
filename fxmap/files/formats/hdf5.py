"""HDF5 files as Keras writes them: .h5 with the names of weights, and .keras or .weights.h5 with numbers for names.

Since version 3 Keras numbers the variables of a layer (`layers/conv2d/vars/0`) and names the layer in an attribute. The
names of the variables follow from their shapes and from the layer's configuration, which a .keras archive has. Their order
in the model is that of the configuration, or that in which they were written.
"""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fxmap.errors import CheckpointError, shorten
from fxmap.expressions.regions import Region
from fxmap.files.arrays import dtype_of, is_of_training, library, numbers_of, tensor_of
from fxmap.files.format import Format, reason_of
from fxmap.files.growth import refuse_growth
from fxmap.files.keras_names import named
from fxmap.files.lazy import LazyTensor
from fxmap.files.limits import current
from fxmap.files.stored import Stored
from fxmap.files.unchanged import Stamp

_EXTRA = "'fxmap[hdf5]'"
# The members of a .keras archive.
_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"


@dataclass(frozen=True, slots=True)
class _Dataset:
    """A dataset of an HDF5 file, which lies in pieces, compressed, or in an archive."""

    path: Path
    stamp: Stamp
    name: str

    def read(self, region: Region) -> Tensor:
        """Read a region into memory of its own.

        Raises:
            CheckpointError: the file was changed, or is damaged there.
        """
        self.stamp.check(self.path)
        try:
            with _opened(self.path) as file:
                return tensor_of(file[self.name][tuple(slice(start, stop) for start, stop in region)])
        except CheckpointError:
            raise
        except Exception as error:  # whatever HDF5's filters raise on damage
            raise CheckpointError(f"{self.path}: {self.name}: cannot be read: {reason_of(error)}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an HDF5 file, or the one in a .keras archive."""
    h5py = library("h5py", _EXTRA, path)
    if not zipfile.is_zipfile(path):
        with h5py.File(path, "r") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        if _WEIGHTS not in archive.namelist():
            raise CheckpointError(f"{path}: an archive without {_WEIGHTS}, so none of Keras: {shorten(archive.namelist())}")
        with archive.open(_WEIGHTS) as stream, h5py.File(stream, "r") as file:
            yield file


def _lazy(path: Path) -> Mapping[str, Any]:
    try:
        stamp = Stamp.of(path)
        in_archive = zipfile.is_zipfile(path)
        with _opened(path) as file:
            datasets = list(_datasets(file, path))
            tensors = {
                one.name.lstrip("/"): found
                for one in sorted(datasets, key=_place)
                if not is_of_training(one.name.lstrip("/")) and (found := _tensor(one, path, stamp, in_archive)) is not None
            }
            names = _names_of(file, list(tensors), {key: tuple(value.shape) for key, value in tensors.items()}, path)
        return {name: tensors[key] for key, name in names.items()}
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file fails in whatever way its bytes say
        raise CheckpointError(f"{path}: not a readable HDF5 file: {reason_of(error)}") from error


def _datasets(group: Any, path: Path, depth: int = 0) -> Iterator[Any]:
    """Yield the datasets of a file that lie in it; links to other files are not followed.

    Raises:
        CheckpointError: the numbers of one lie in another file, or groups are nested beyond the limits.
    """
    h5py = library("h5py", _EXTRA, path)
    if depth > current().depth:
        raise CheckpointError(f"{path}: nested deeper than {current().depth} groups, or a group holds itself")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        found = group[name]
        if isinstance(found, h5py.Group):
            yield from _datasets(found, path, depth + 1)
        elif isinstance(found, h5py.Dataset):
            if found.external or found.is_virtual:
                raise CheckpointError(f"{path}: {found.name}: its numbers lie in another file, which is not read")
            yield found


def _place(dataset: Any) -> tuple[bool, int]:
    """Return where a dataset was written, which is in the order of the model; those in pieces have no such place."""
    offset = dataset.id.get_offset()
    return offset is None, offset or 0


def _tensor(dataset: Any, path: Path, stamp: Stamp, in_archive: bool) -> LazyTensor | None:
    dtype = None if dataset.shape is None else dtype_of(dataset.dtype)
    if dtype is None:
        return None
    offset = dataset.id.get_offset()
    if offset is not None and not in_archive and dataset.dtype.isnative:
        return Stored(path, stamp, offset, dataset.shape, dtype).lazy()
    return LazyTensor(dataset.shape, dtype, _Dataset(path, stamp, dataset.name).read)


def _names_of(file: Any, keys: list[str], shapes: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, str]:
    """Return the names of weights by the paths of their datasets, in the order of the model."""
    root = file.get("model_weights", file)
    if "layer_names" in root.attrs:
        return _by_attributes(root, keys)
    return named(keys, shapes, _layers(file, keys), _configuration(path))


def _by_attributes(root: Any, keys: list[str]) -> dict[str, str]:
    """Read the lists of names that Keras kept in attributes before version 3, in the order of the layers."""
    before = root.name.strip("/")
    full: Callable[[str, str], str] = lambda layer, weight: "/".join(filter(None, (before, layer, weight)))  # noqa: E731
    places = [
        (full(layer, weight), weight, layer)
        for layer in map(_text, root.attrs["layer_names"])
        if layer in root
        for weight in map(_text, root[layer].attrs.get("weight_names", ()))
    ]
    known = [place for place in places if place[0] in keys]
    short = [weight for _, weight, _ in known]
    plain = len(set(short)) == len(short)
    return {key: weight if plain else f"{layer}/{weight}" for key, weight, layer in known}


def _layers(file: Any, keys: list[str]) -> dict[str, str]:
    """Return the names that layers were given, by their paths: of those that have variables, and of those around them."""
    places = {"/".join(parts[:depth]): None for key in keys for parts in [key.split("/")] for depth in range(len(parts))}
    found = {place: file.get(f"{place}/vars") for place in places if place}
    return {
        place: _text(group.attrs["name"]) for place, group in found.items() if group is not None and "name" in group.attrs
    }


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _configuration(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(_CONFIG)) if _CONFIG in archive.namelist() else None


HDF5 = Format(
    name="HDF5",
    suffixes=(".h5", ".hdf5", ".keras"),
    holds="arrays of numbers by name, as Keras and TensorFlow save them",
    read=lambda path: numbers_of(_lazy(path), path),
    lazy=_lazy,
    guard=refuse_growth,
)
