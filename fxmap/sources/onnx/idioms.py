"""Idioms of exporters: several ONNX operators that are written for one operation of torch.

`where(isnan(softmax(x)), 0, softmax(x))` is torch's safe softmax, and a mask of zeros that is added is no mask.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fxmap.sources.onnx.roles import Role, is_computed


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


def safe_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Return a softmax with zeros for rows of which a mask leaves nothing."""
    result: Tensor = torch.ops.aten._safe_softmax(x, axis)
    return result


def is_empty_mask(name: str, value: Tensor, roles: set[Role]) -> bool:
    """Whether an initializer is a mask of zeros, which an exporter made up and which is added to something."""
    return value.numel() > 1 and not value.any() and is_computed(name) and bool(roles) and all(k == "Add" for k, _ in roles)


def without(zeros: Tensor, other: Tensor) -> Tensor:
    """Add a mask of zeros: nothing, but for the axes that it has more."""
    fits = zeros.dim() <= other.dim() and all(
        n in (1, m) for n, m in zip(zeros.shape[::-1], other.shape[::-1], strict=False)
    )
    return other if fits else other + zeros
