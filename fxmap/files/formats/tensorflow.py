"""Checkpoints of TensorFlow, `NAME.index` with its data beside it, read by TensorFlow where that is installed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxmap.errors import CheckpointError
from fxmap.expressions.regions import Region, cut
from fxmap.files.arrays import dtype_of, is_of_training, library, numbers_of, tensor_of
from fxmap.files.format import Format, reason_of
from fxmap.files.lazy import LazyTensor

# How object-based checkpoints end the name of a variable, and where they keep the state of an optimizer.
_VALUE, _SLOT, _INTERNAL = "/.ATTRIBUTES/VARIABLE_VALUE", "/.OPTIMIZER_SLOT/", "_CHECKPOINTABLE_OBJECT_GRAPH"


def _lazy(path: Path) -> Mapping[str, Any]:
    tensorflow = library("tensorflow", "tensorflow", path)
    prefix = str(path).removesuffix(".index")
    try:
        reader = tensorflow.train.load_checkpoint(prefix)
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    except Exception as error:  # TensorFlow's own kinds of errors
        raise CheckpointError(f"{path}: not a readable checkpoint of TensorFlow: {reason_of(error)}") from error
    found: dict[str, Any] = {}
    for name in sorted(shapes):
        dtype = dtype_of(dtypes[name].as_numpy_dtype().dtype) if name != _INTERNAL else None
        if dtype is None or _SLOT in name or is_of_training(name):
            continue

        def read(region: Region, name: str = name) -> Any:
            return cut(tensor_of(reader.get_tensor(name)), region).clone()

        found[name.removesuffix(_VALUE)] = LazyTensor(shapes[name], dtype, read)
    return found


TENSORFLOW = Format(
    name="TensorFlow",
    suffixes=(".index",),
    holds="variables by name, with the data beside it",
    read=lambda path: numbers_of(_lazy(path), path),
    lazy=_lazy,
)
