"""Quantized ONNX (QDQ): QuantizeLinear and DequantizeLinear as torch's graphs write them, so that one form knows both.

Integers of weights, scales and zero points are read as they are in the file. What torch's graphs do not hold as integers
(biases in int32, integers of 4 bits, blocks with a scale each) is dequantized when the file is read.

https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

BORDERS = ("QuantizeLinear", "DequantizeLinear")
NOT_WRITTEN = (
    "a quantized ONNX file is read and not written: its ranges belong to its weights. Fill the float file that it was made "
    "from, and quantize that (onnxruntime.quantization.quantize_static)"
)
_RANGES = {torch.int8: (-128, 127), torch.uint8: (0, 255)}
# Operators whose results are not negative, and those whose results are not where their inputs are not.
_POSITIVE = {"Abs", "Exp", "HardSigmoid", "ReduceL2", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt", "ThresholdedRelu"}
_KEEPING = {
    "AveragePool", "Cast", "Concat", "DepthToSpace", "DequantizeLinear", "Dropout", "Expand", "Flatten", "Gather",
    "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool", "QuantizeLinear", "ReduceMax", "ReduceMean", "Reshape",
    "Resize", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip


def is_quantized(nodes: Iterable[Any]) -> bool:
    """Whether a graph quantizes or dequantizes something by operators of the standard."""
    return any(node.op_type in BORDERS for node in nodes)


def read_at_once(node: Any, held: Mapping[str, Tensor]) -> Tensor | None:
    """Return the float tensor of a weight that torch's graphs do not hold as integers; None for every other node."""
    if node.op_type != "DequantizeLinear" or any(name and name not in held for name in node.input):
        return None
    integers, scale = held[node.input[0]], held[node.input[1]]
    block = next((one.i for one in node.attribute if one.name == "block_size"), 0)
    if integers.dtype in _RANGES and not block:
        return None
    zero = held[node.input[2]] if len(node.input) > 2 and node.input[2] else torch.zeros_like(scale)
    axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
    return _float(integers, scale, zero, axis, block)


def _float(integers: Tensor, scale: Tensor, zero: Tensor, axis: int, block: int) -> Tensor:
    axis %= max(integers.dim(), 1)
    if block:
        scale, zero = (one.repeat_interleave(block, axis).narrow(axis, 0, integers.shape[axis]) for one in (scale, zero))
    elif scale.numel() > 1:
        shape = [-1 if place == axis else 1 for place in range(integers.dim())]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    else:
        scale, zero = scale.reshape(()), zero.reshape(())
    return (integers.to(scale.dtype) - zero.to(scale.dtype)) * scale


def zero_points(nodes: Iterable[Any], known: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the names of zero points with the element type of each in the file: torch computes with wider ones."""
    named = (node.input[2] for node in nodes if node.op_type in BORDERS and len(node.input) > 2)
    return {
        name: 3 if known[name].dtype is torch.int8 else 2 for name in named if name in known and known[name].dtype in _RANGES
    }


def left_out(node: Any) -> str:
    """Return a name for the zero point that a node leaves out, since it is 0; empty where it names one, or has none.

    >>> from types import SimpleNamespace as Node
    >>> left_out(Node(op_type="QuantizeLinear", input=["x", "scale"])), left_out(Node(op_type="Add", input=["x", "y"]))
    ('scale:zero_point', '')
    """
    if node.op_type not in BORDERS or (len(node.input) > 2 and node.input[2]):
        return ""
    return f"{node.input[1]}:zero_point"


def cut_at_zero(nodes: Iterable[Any], constants: Mapping[str, Tensor]) -> set[str]:
    """Return the results of nodes that quantize, and by that cut off what is negative: a relu that was left out.

    onnxruntime removes a relu before a range of which the least integer is 0. Where a result is not negative anyway,
    nothing is cut.
    """
    made = {output: node for node in nodes for output in node.output}

    def positive(name: str) -> bool:
        node = made.get(name)
        if node is None:
            return False
        if node.op_type == "Clip":
            low = constants.get(node.input[1]) if len(node.input) > 1 else None
            return low is not None and bool((low >= 0).all())
        if node.op_type == "QuantizeLinear" and _starts_at_zero(node, constants):
            return True
        if node.op_type in ("Add", "Mul"):
            return all(positive(one) for one in node.input)
        places = node.input if node.op_type == "Concat" else node.input[:1]
        return node.op_type in _POSITIVE or (node.op_type in _KEEPING and all(positive(one) for one in places))

    return {
        node.output[0]
        for node in nodes
        if node.op_type == "QuantizeLinear" and node.input[0] in made
        if _starts_at_zero(node, constants) and not positive(node.input[0])
    }


def _starts_at_zero(node: Any, constants: Mapping[str, Tensor]) -> bool:
    if len(node.input) < 3 or not node.input[2]:
        return True  # uint8 with the zero point 0
    zero = constants.get(node.input[2])
    return zero is not None and zero.dtype in _RANGES and zero.numel() == 1 and int(zero) == _RANGES[zero.dtype][0]


def _quantize(
    x: Tensor, scale: Tensor, zero: Tensor, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0,
    saturate: int = 1, precision: int = 0,
) -> Tensor:  # fmt: skip
    dtype = {0: torch.uint8, 2: torch.uint8, 3: torch.int8}.get(output_dtype)
    if dtype is None or block_size:
        raise NotImplementedError("QuantizeLinear into other integers than int8 and uint8, or in blocks")
    return _operation("quantize", scale)(x, *_where(x, scale, zero, axis), *_RANGES[dtype], dtype)


def _dequantize(
    x: Tensor, scale: Tensor, zero: Tensor, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Tensor:
    if x.dtype not in _RANGES or block_size:
        raise NotImplementedError("DequantizeLinear of other integers than int8 and uint8, or in blocks")
    return _operation("dequantize", scale)(x, *_where(x, scale, zero, axis), *_RANGES[x.dtype], x.dtype)


def _operation(name: str, scale: Tensor) -> Callable[..., Tensor]:
    import torch.ao.quantization.fx._decomposed

    known: Any = torch.ops.quantized_decomposed
    found: Callable[..., Tensor] = (
        getattr(known, f"{name}_per_channel").default if scale.numel() > 1 else getattr(known, f"{name}_per_tensor").tensor
    )
    return found


def _where(x: Tensor, scale: Tensor, zero: Tensor, axis: int) -> tuple[Any, ...]:
    return (scale, zero, axis % x.dim()) if scale.numel() > 1 else (scale, zero)


QUANTIZED: dict[str, Callable[..., Any]] = {"DequantizeLinear": _dequantize, "QuantizeLinear": _quantize}
