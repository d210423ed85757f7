"""Write an ONNX model with other numbers in its initializers, whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxmap.files.atomic import whole_file
from fxmap.sources.onnx.records.outside import EXTERNAL, SMALL

# Where tensors lie in a file beside the model: behind one another, at multiples of a page; smaller ones stay in the model.
_PAGE = 4096
_FAILURES = (OSError, ValueError)


def write_onnx(proto: Any, values: Mapping[str, Tensor], path: Path, *, external: bool, overwrite: bool) -> None:
    """Write a model with some values in the place of its initializers; `external` puts large ones into a file beside it.

    Raises:
        CheckpointError: a file cannot be written, or is there already and may not be overwritten.
    """
    written = type(proto)()
    written.CopyFrom(proto)
    if not external:
        for initializer in written.graph.initializer:
            _fill(initializer, values)
        with whole_file(path, _FAILURES, overwrite=overwrite) as temporary:
            temporary.write_bytes(written.SerializeToString())
        return
    data = path.with_name(f"{path.name}.data")
    # The data are there before the model that names them.
    with (
        whole_file(path, _FAILURES, overwrite=overwrite) as model,
        whole_file(data, _FAILURES, overwrite=overwrite) as beside,
    ):
        _move_out(written, values, beside, data.name)
        model.write_bytes(written.SerializeToString())


def _fill(initializer: Any, values: Mapping[str, Tensor]) -> None:
    """Put numbers into an initializer, as raw bytes."""
    import onnx.numpy_helper

    if initializer.name in values:
        initializer.CopyFrom(onnx.numpy_helper.from_array(_array(values[initializer.name]), initializer.name))


def _array(value: Tensor) -> Any:
    value = value.detach().cpu().contiguous()
    if value.dtype is not torch.bfloat16:
        return value.numpy()
    import ml_dtypes

    return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _move_out(proto: Any, values: Mapping[str, Tensor], file: Path, name: str) -> None:
    """Write the numbers of large initializers to a file, one after the other, and name their places in it."""
    import onnx.numpy_helper

    with file.open("wb") as stream:
        for initializer in proto.graph.initializer:
            _fill(initializer, values)
            if not initializer.HasField("raw_data"):
                initializer.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(initializer), initializer.name))
            numbers = initializer.raw_data
            if len(numbers) < SMALL:
                continue
            stream.write(bytes(-stream.tell() % _PAGE))
            offset = stream.tell()
            stream.write(numbers)
            initializer.ClearField("raw_data")
            del initializer.external_data[:]
            for key, value in (("location", name), ("offset", str(offset)), ("length", str(len(numbers)))):
                entry = initializer.external_data.add()
                entry.key, entry.value = key, value
            initializer.data_location = EXTERNAL
