"""Idioms of exporters: several ONNX operators that are written for one operation of torch.

`where(isnan(softmax(x)), 0, softmax(x))` is torch's safe softmax, and a mask of zeros that is added is no mask.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fxmap.sources.onnx.spellings.roles import Role, is_computed


def guarded_softmaxes(nodes: Iterable[Any], constants: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return, for the output of each choice of zeros where a softmax is NaN, the node of the softmax."""
    nodes = list(nodes)
    made = {output: node for node in nodes for output in node.output}
    found = {}
    for node in nodes:
        if node.op_type != "Where":
            continue
        asked, zero, value = node.input
        test, softmax = made.get(asked), made.get(value)
        if test is None or softmax is None or test.op_type != "IsNaN" or softmax.op_type != "Softmax":
            continue
        number = constants.get(zero)
        if list(test.input) == [value] and number is not None and number.numel() == 1 and not number.any():
            found[node.output[0]] = softmax
    return found


def kept_variances(nodes: Iterable[Any], constants: Mapping[str, Tensor]) -> dict[str, str]:
    """Return, for the output of each maximum of a variance and zero, the name of the variance, which is never below.

    Flax takes a variance as `mean(x * x) - mean(x) * mean(x)`, which rounding can make negative.
    """
    nodes = list(nodes)
    made = {output: node for node in nodes for output in node.output}
    found = {}
    for node in nodes:
        if node.op_type == "Max" and len(node.input) == 2:
            for variance, zero in (node.input, reversed(node.input)):
                number = constants.get(zero)
                if number is not None and not number.any() and _is_variance(made.get(variance), made, constants):
                    found[node.output[0]] = variance
    return found


def _is_variance(node: Any, made: Mapping[str, Any], constants: Mapping[str, Tensor]) -> bool:
    if node is None or node.op_type != "Sub":
        return False
    squares: Any = made.get(node.input[0])
    mean: Any = made.get(_squared(made.get(node.input[1])))
    if any(one is None or one.op_type != "ReduceMean" for one in (squares, mean)):
        return False
    axes = [
        [constants[name].tolist() if name in constants else name for name in list(one.input)[1:]] for one in (squares, mean)
    ]
    is_same = axes[0] == axes[1] and squares.attribute == mean.attribute
    x = _squared(made.get(squares.input[0]))
    return bool(x) and is_same and mean.input[0] == x


def _squared(node: Any) -> str:
    """Return the name of what a node multiplies by itself; empty where it does not."""
    return node.input[0] if node is not None and node.op_type == "Mul" and node.input[0] == node.input[1] else ""


def gates(nodes: Iterable[Any]) -> dict[str, str]:
    """Return, for the output of each product of a value and its sigmoid, which is torch's silu, the name of the value."""
    nodes = list(nodes)
    made = {output: node for node in nodes for output in node.output}
    found = {}
    for node in nodes:
        if node.op_type == "Mul":
            for x, gate in (node.input, reversed(node.input)):
                sigmoid = made.get(gate)
                if sigmoid is not None and sigmoid.op_type == "Sigmoid" and list(sigmoid.input) == [x]:
                    found[node.output[0]] = x
    return found


def safe_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Return a softmax with zeros for rows of which a mask leaves nothing."""
    result: Tensor = torch.ops.aten._safe_softmax(x, axis)
    return result


def is_empty_mask(name: str, value: Tensor, roles: set[Role]) -> bool:
    """Whether an initializer is a mask of zeros, which an exporter made up and which is added to something."""
    # Zeros are looked for last, since this reads the tensor.
    is_added = value.numel() > 1 and is_computed(name) and bool(roles) and all(kind == "Add" for kind, _ in roles)
    return is_added and not value.any()


def without(zeros: Tensor, other: Tensor) -> Tensor:
    """Add a mask of zeros: nothing, but for the axes that it has more."""
    fits = zeros.dim() <= other.dim() and all(
        n in (1, m) for n, m in zip(zeros.shape[::-1], other.shape[::-1], strict=False)
    )
    return other if fits else other + zeros
