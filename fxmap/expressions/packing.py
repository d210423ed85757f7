"""Packed parameters: entries of a state dict that hold several tensors.

A quantized linear layer keeps a tuple of weight and bias, a dynamic recurrent layer an object with four tensors. Like
`functions`, this module needs torch and `qparams` alone: `KeyMapping.to_python` prints its functions.

>>> weight = torch.quantize_per_tensor(torch.ones(1, 2), 0.5, 0, torch.qint8)
>>> unpack_part(pack("linear", (weight, torch.zeros(1))), 1)
tensor([0.])
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fxmap.expressions.qparams import check_packable

# The tensors of each kind of object, in packing order.
KINDS = {"linear": ("weight", "bias"), "cell": ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}


def pack(kind: str, parts: Sequence[Tensor]) -> Any:
    """Pack quantized weights and float biases into the script object that torch's dynamic recurrent layers store.

    `kind` is "linear" (weight, bias: one weight of a cell) or "cell" (weight_ih, weight_hh, bias_ih, bias_hh: one direction
    of a layer of an LSTM or a GRU).

    Raises:
        ValueError: there are more or fewer parts, or torch's kernels cannot take them.
    """
    layers = [tuple(parts)] if kind == "linear" else list(zip(parts[:2], parts[2:], strict=True))
    if any(len(layer) != 2 for layer in layers) or len(layers) != (1 if kind == "linear" else 2):
        raise ValueError(f"{len(parts)} parts of a packed {kind}")
    # Kernels read biases as float32, whatever they are.
    layers = [(weight, _single(bias)) for weight, bias in layers]
    for weight, bias in layers:
        check_packable(weight, bias)
    if kind == "linear":
        return torch.ops.quantized.linear_prepack(*layers[0])
    if len(parts[0]) != len(parts[1]):
        raise ValueError(f"weights of {len(parts[0])} and {len(parts[1])} rows in one cell")
    inputs, hidden = (torch.ops.quantized.linear_prepack(*layer) for layer in layers)
    # The last argument is reduce_range (activations of 7 bits), which torch sets since version 2 of these modules.
    return torch.ops.quantized.make_quantized_cell_params_dynamic(inputs, hidden, layers[0][1], layers[1][1], True)


def _single(bias: Any) -> Any:
    return bias.float() if isinstance(bias, Tensor) and bias.is_floating_point() else bias


def pair(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the entry of a quantized linear layer: weight and bias."""
    return weight, bias


def is_object(value: object) -> bool:
    """Whether a value of a state dict is a script object with packed parameters."""
    return isinstance(value, torch.ScriptObject)


def unpack(value: Any) -> tuple[Any, ...]:
    """Return the tensors of a packed entry: a tuple as it is, an object in the order in which it is packed."""
    if isinstance(value, tuple):
        return value
    state = value.__getstate__()[0]
    if isinstance(state[0], Tensor):
        return tuple(state[:2])
    (inputs, bias_ih), (hidden, bias_hh) = (part.__getstate__()[0][:2] for part in state[4])
    return inputs, hidden, bias_ih, bias_hh


def kind_of_object(parts: Sequence[Any]) -> str:
    """Return the kind of the object with these tensors, as in `pack`."""
    return next(kind for kind, names in KINDS.items() if len(names) == len(parts))


def unpack_part(value: Any, index: int) -> Any:
    """Return one tensor of a packed entry, by its place in the order in which it is packed."""
    return unpack(value)[index]


def clone(value: Tensor) -> Tensor:
    """Copy a tensor of a state dict, including the quantized weight of an embedding, which torch cannot clone.

    Unpacked from its module, that one reads its scales in the module's memory, and is garbage when the module has another.
    """
    value = value.detach()
    if not value.is_quantized or value.qscheme() is not torch.per_channel_affine_float_qparams:
        return value.clone()
    scales, zero_points = value.q_per_channel_scales().clone(), value.q_per_channel_zero_points().clone()
    return torch.quantize_per_channel(value.dequantize(), scales, zero_points, value.q_per_channel_axis(), value.dtype)
