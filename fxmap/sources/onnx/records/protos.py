"""What the records of an ONNX file hold, in the words of torch: tensors, attributes, constants.

>>> import onnx.helper as oh
>>> tensor_of(oh.make_tensor("w", 1, [2], [1.0, 2.0])), attribute_of(oh.make_attribute("axis", 1))
(tensor([1., 2.]), 1)
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import CheckpointError
from fxmap.sources.onnx.records.values import DTYPES, bounded, exact


def nodes_of(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of the graphs in them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)


def constant_nodes(nodes: Iterable[Any]) -> dict[str, Tensor]:
    """Return what `Constant` nodes hold, by their names; text is left out."""
    found: dict[str, Tensor] = {}
    for node in nodes:
        if node.op_type == "Constant" and not any("string" in one.name for one in node.attribute):
            found[node.output[0]] = exact_tensor(constant_of({one.name: attribute_of(one) for one in node.attribute}))
    return found


def tensor_of(proto: Any) -> Tensor:
    """Return the numbers of an onnx.TensorProto; integers and floats of fewer than 8 bits in the next wider type.

    Raises:
        CheckpointError: it holds strings, or other numbers than its shape and type say.
    """
    import onnx.numpy_helper

    try:
        array = onnx.numpy_helper.to_array(proto)
    except Exception as error:  # whatever onnx raises on numbers that do not fit the shape, or types that it does not know
        shape = list(proto.dims)
        raise CheckpointError(f"{proto.name}: no tensor of the shape {shape} that can be read: {error}") from error
    if array.dtype.kind in "OSU":
        raise CheckpointError(f"{proto.name}: strings are no tensors here")
    name = str(array.dtype)
    if name == "bfloat16":
        return torch.from_numpy(array.astype("float32")).to(torch.bfloat16)
    if name.startswith(("int", "uint")) and array.dtype.kind not in "iu":  # of 2 or 4 bits
        return torch.from_numpy(array.astype("int8" if name.startswith("int") else "uint8"))
    if name.startswith("float") and name not in ("float16", "float32", "float64"):  # of 4, 6 or 8 bits
        return torch.from_numpy(array.astype("float32"))
    return torch.from_numpy(array.copy())


def exact_tensor(value: Tensor) -> Tensor:
    """Return the number that was meant by a tensor of one number; see `exact`."""
    if value.dtype is not torch.float32 or value.numel() != 1:
        return value
    return torch.tensor(exact(value.item()), dtype=torch.float64).reshape(value.shape)


def attribute_of(proto: Any) -> Any:
    """Return the value of an onnx.AttributeProto as Python has it; tensors as torch has them, graphs as they are."""
    import onnx.helper

    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode()
    if proto.HasField("t"):
        return tensor_of(value)
    if isinstance(value, float):
        return exact(value)
    if proto.strings:
        return [one.decode() for one in value]
    return list(value) if proto.ints or proto.floats else value


def constant_of(attributes: Mapping[str, Any]) -> Tensor:
    """Return what a `Constant` node with some attributes holds.

    Raises:
        CheckpointError: neither a tensor nor numbers.
    """
    if "value" in attributes:
        value: Tensor = attributes["value"]
        return value
    for name, dtype in (("value_int", torch.int64), ("value_ints", torch.int64)):
        if name in attributes:
            return torch.tensor(attributes[name], dtype=dtype)
    for name in ("value_float", "value_floats"):
        if name in attributes:
            return torch.tensor(attributes[name], dtype=torch.float32)
    raise CheckpointError(f"a Constant of {', '.join(attributes)}: only tensors and numbers are understood")


def is_image(declared: Any) -> bool:
    """Whether a declared type is that of images with channels last: up to four channels, behind maps."""
    extents = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in declared.shape.dim]
    is_real = DTYPES.get(declared.elem_type, torch.float32).is_floating_point
    return is_real and len(extents) == 4 and 0 < extents[3] <= 4 and not 0 < extents[1] <= 4


def example_of(declared: Any) -> Tensor:
    """Return a tensor of a declared type; an extent that it leaves open is 2, or 64 for maps.

    Raises:
        CheckpointError: it has more numbers than fit into memory.
    """
    extents = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in declared.shape.dim]
    is_map = len(extents) > 3
    # An extent may be negative in a damaged file, which says as much as none.
    extents = [max(extent, 0) for extent in extents]
    shape = [extent or (64 if is_map and axis > 1 else 2 if axis == 0 else 8) for axis, extent in enumerate(extents)]
    try:
        bounded(math.prod(shape))
    except ValueError as error:
        raise CheckpointError(f"an input of the shape {shape} is declared: {error}") from error
    dtype = DTYPES.get(declared.elem_type, torch.float32)
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)
