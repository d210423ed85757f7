"""Equality: whether two aligned operations read the same numbers.

Two operations of one kind, with the same attributes and the same tensors, are one function of their inputs, whatever those
are: no input need reach every number. An affine layer is compared by its weight and bias with its norm merged in:

    w' = w * gamma / sqrt(var + eps)        b' = (b - mean) * gamma / sqrt(var + eps) + beta

so that layers that carry their norm apart, folded or not at all, that are joined with others, or stored `i o`, are compared
by the same numbers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import Op
from fxmap.mapping.proof import TOLERANCE
from fxmap.model.tensors import plain
from fxmap.run.distance import distance


def same_tensors(src: Op, ours: Mapping[str, Tensor], dst: Op, theirs: Mapping[str, Tensor]) -> dict[str, bool]:
    """Return, by argument of the destination's operation, whether the source's tensor holds the same numbers.

    >>> op, w = Op("fc", "linear"), torch.ones(2, 3)
    >>> same_tensors(op, {"weight": w}, op, {"weight": w, "bias": torch.zeros(2)})
    {'weight': True, 'bias': True}
    >>> same_tensors(op, {"weight": w}, op, {"weight": 2 * w})
    {'weight': False}
    """
    found = {argument: argument in ours and _equal(src, ours, dst, theirs, argument) for argument in theirs}
    if ours.keys() == theirs.keys() and all(found.values()):
        return found
    one, other = effective(src, ours), effective(dst, theirs)
    if one is not None and other is not None:
        if all(distance(a, b) <= TOLERANCE for a, b in zip(one, other, strict=True)):
            return dict.fromkeys(theirs, True)
        if ours.keys() != theirs.keys():
            return dict.fromkeys(theirs, False)
    return found


def _equal(src: Op, ours: Mapping[str, Tensor], dst: Op, theirs: Mapping[str, Tensor], argument: str) -> bool:
    a, b = _part(src, argument, ours[argument]), _part(dst, argument, theirs[argument])
    eps = src.attribute("eps", 1e-5), dst.attribute("eps", 1e-5)  # torch's default
    if argument == "running_var" and eps[0] != eps[1]:
        return distance(a + eps[0], b + eps[1]) <= TOLERANCE
    # Axes of extent 1 say how a tensor is broadcast.
    return torch.equal(plain(a).squeeze(), plain(b).squeeze())


def effective(op: Op, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Return the weight (`o i kh kw`) and the bias (`o`) of an affine layer with its norm merged in; None for others.

    A transposed convolution is left out: its output channels are dealt out to groups.
    """
    if not has(op.kind, Trait.OUTPUT_FIRST) or "weight" not in tensors:
        return None
    parts = {argument: _part(op, argument, tensor.detach()) for argument, tensor in tensors.items()}
    weight = parts["weight"]
    bias = parts.get("bias", weight.new_zeros(weight.shape[0]))
    if "norm.running_var" in parts:
        scale = torch.rsqrt(parts["norm.running_var"] + op.attribute("norm.eps")) * parts.get("norm.weight", 1.0)
        weight = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
        bias = (bias - parts["norm.running_mean"]) * scale + parts.get("norm.bias", 0.0)
    return weight, bias


def _part(op: Op, argument: str, tensor: Tensor) -> Tensor:
    """Return the part of a tensor that an operation reads; for an affine layer, with the output axis first."""
    if not has(op.kind, Trait.AFFINE):
        return tensor
    if argument == "weight" and op.attribute("axes") == "i o":
        tensor = tensor.t()
    if op.rows is not None:
        tensor = tensor[list(op.rows)]
    if argument == "weight" and op.attribute("axes") == "o i kh kw":
        return tensor.flatten(1)
    # A kernel of 1 is no axis.
    while tensor.dim() > 2 and tensor.shape[-1] == 1:
        tensor = tensor.squeeze(-1)
    return tensor.flatten() if argument != "weight" else tensor
