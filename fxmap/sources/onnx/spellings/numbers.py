"""Numbers of the code in ONNX graphs: exporters write `x * 0.5` with a tensor of one number, torch's graphs hold the number.

>>> import onnx.helper as oh
>>> half = oh.make_node("Constant", [], ["half"], value_float=0.5)
>>> nodes = [half, oh.make_node("Sqrt", ["quarter"], ["root"]), oh.make_node("Mul", ["x", "root"], ["y"])]
>>> found = numbers_of(nodes, {"half": torch.tensor(0.5), "quarter": torch.tensor(0.25)})
>>> {name: float(number) for name, number in found.items()}
{'half': 0.5, 'quarter': 0.25, 'root': 0.5}
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fxmap.model.tensors import is_integer

# Operators that take a number as torch's functions do: on both sides, or as the second operand alone.
_BOTH: dict[str, Callable[[Any, Any], Any]] = {"Add": operator.add, "Mul": operator.mul, "Sub": operator.sub}
_SECOND: dict[str, Callable[[Any, Any], Any]] = {
    "Div": operator.truediv, "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt,
    "LessOrEqual": torch.le,
}  # fmt: skip
# Operators by which exporters compute one number of others: the scale of attention is a root of a root.
_OF_NUMBERS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add, "Div": torch.div, "Mul": torch.mul, "Neg": torch.neg, "Reciprocal": torch.reciprocal,
    "Sqrt": torch.sqrt, "Sub": torch.sub,
}  # fmt: skip


def numbers_of(nodes: Iterable[Any], constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the constants that are one number, and what is computed of real ones alone, in double precision.

    Args:
        nodes: onnx.NodeProtos in their order.
        constants: tensors that are no weights, by their names.
    """
    single = {name: value for name, value in constants.items() if value.numel() == 1}
    found = {name: value.double() for name, value in single.items() if value.is_floating_point()}
    for node in nodes:
        function = _OF_NUMBERS.get(node.op_type)
        if function is not None and node.input and all(name in found for name in node.input):
            found[node.output[0]] = function(*(found[name] for name in node.input))
    return found | {name: value for name, value in single.items() if is_integer(value)}


def with_number(node: Any, inputs: Sequence[Any], numbers: Mapping[str, Tensor]) -> Tensor | None:
    """Compute an operator of a value and one number; None for every other one."""
    function = _BOTH.get(node.op_type) or _SECOND.get(node.op_type)
    if function is None or len(inputs) != 2:
        return None
    places = [place for place in (0, 1) if node.input[place] in numbers]
    if places == [0] and node.op_type == "Div":
        return _inverse(numbers[node.input[0]], inputs[1])
    if len(places) != 1 or (places == [0] and node.op_type in _SECOND):
        return None
    place = places[0]
    number, other = numbers[node.input[place]], inputs[1 - place]
    if not isinstance(other, Tensor) or number.dim() > other.dim():
        return None
    alike = is_integer(other) and node.op_type != "Div" if is_integer(number) else other.is_floating_point()
    if not alike:
        return None
    result: Tensor = function(other, number.item()) if place == 1 else function(number.item(), other)
    return result


def _inverse(number: Tensor, value: Any) -> Tensor | None:
    """Return 1 / value, which exporters write for the reciprocal and for the inverse of a root; None for other numbers."""
    is_real = isinstance(value, Tensor) and value.is_floating_point() and number.dim() <= value.dim()
    return torch.reciprocal(value) if is_real and number.item() == 1 else None
