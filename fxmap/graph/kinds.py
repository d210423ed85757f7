"""Kinds of operations: one for all spellings of a function, and what all of a kind have in common."""

from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

# Spellings of one operation. Dimensions are not part of a kind: the shape of the weight tells them.
SPELLINGS = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "convolution"),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "conv_transpose"),
    **{
        f"{pool}{n}d": pool for pool in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool") for n in (1, 2, 3)
    },
    **dict.fromkeys(("iadd", "radd", "__iadd__", "__radd__"), "add"),
    **dict.fromkeys(("imul", "rmul"), "mul"),
    **dict.fromkeys(("isub",), "sub"),
    "truediv": "div",
    "relu6": "hardtanh",
    "max_pool2d_with_indices": "max_pool",
    "max_pool3d_with_indices": "max_pool",
    "native_batch_norm": "batch_norm",
    "native_batch_norm_legit_no_training": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "safe_softmax": "softmax",  # they differ where a mask leaves nothing: zeros instead of NaN
    "concat": "cat",
    "concatenate": "cat",
    "swish": "silu",
}


# Values that are numbers, not tensors: they lay data out, and are not compared.
_TRANSPOSED = ("T", "mT", "H", "mH")


# Attributes of a tensor that are values, and no numbers about it.
_PARTS_OF_TENSORS = {"real": "real", "imag": "imag", "data": "alias"}


def kind_of(node: fx.Node) -> str:
    """Return the kind of an operation node, whichever way it was called."""
    if node.op == "call_module":
        return "identity"  # a stub at the border of a quantized region: the tracer's only leaves
    if isinstance(node.target, OpOverload):
        name = str(node.target.overloadpacket.__name__).strip("_")
        if name == "convolution" and node.args[6]:
            return "conv_transpose"
        return SPELLINGS.get(name, name)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    if name == "getattr" and node.args[1] in _TRANSPOSED:
        return "transpose"
    if name == "getattr" and node.args[1] in _PARTS_OF_TENSORS:
        return _PARTS_OF_TENSORS[str(node.args[1])]
    name = name if name.startswith("__") else name.strip("_")
    return SPELLINGS.get(name, name)


def out_of_place(func: Any) -> OpOverload[..., Any] | None:
    """Return the aten operation that computes what another writes into its first argument; None if none is known.

    >>> out_of_place(torch.ops.aten.relu_.default)
    <OpOverload(op='aten.relu', overload='default')>
    """
    name = getattr(getattr(func, "overloadpacket", None), "__name__", "")
    packet = getattr(torch.ops.aten, name.rstrip("_"), None) if name.endswith("_") else None
    overload = getattr(func, "_overloadname", "")
    return getattr(packet, overload) if packet is not None and overload in packet.overloads() else None


IDENTITIES = {
    "identity",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "feature_dropout",
    "contiguous",
    "alias",
    "lift_fresh",
    "lift_fresh_copy",
    "to_copy",
    "clone",
    "detach",
}


SUMS = {"add", "sub"}


PRODUCTS = {"mul", "div"}


SCALING = SUMS | PRODUCTS


# What takes a part of a value, or several.
PARTS = {
    "slice",
    "select",
    "split",
    "split_with_sizes",
    "unsafe_split",
    "chunk",
    "unsafe_chunk",
    "unbind",
    "narrow",
    "getitem",
}


MOVEMENT = PARTS | {
    "view",
    "reshape",
    "permute",
    "transpose",
    "t",
    "flatten",
    "unflatten",
    "expand",
    "repeat",
    "repeat_interleave",
    "squeeze",
    "unsqueeze",
    "unsafe_view",
    "to",
    "float",
    "channel_shuffle",
    "movedim",
    "roll",
    "flip",
}
