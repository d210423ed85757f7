"""Values with channels last between two transpositions, computed with channels first: as torch's models do.

Exporters of Keras and JAX turn a map before and behind each convolution, and compute what lies between them on the turned
map. Element by element, where a map is padded, joined or averaged, that is the same on the map itself.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from fxmap.sources.onnx.records.values import integers

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
# For each axis of a map with channels last, the axis of the map itself.
_AXIS = {0: 0, 1: 2, 2: 3, 3: 1}
_OF_ONE = {
    "Clip", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg", "Relu", "Selu", "Sigmoid",
    "Softplus", "Swish", "Tanh",
}  # fmt: skip
_OF_SEVERAL = {"Add", "Div", "Max", "Min", "Mul", "Sub"}
_MEANS = {"ReduceMax", "ReduceMean"}

Run = Callable[[Mapping[str, Any], dict[str, Any]], Any]


def perm_of(node: Any) -> tuple[int, ...]:
    """Return the permutation of a transposition; empty for other nodes, and where it names none."""
    return tuple(next((one.ints for one in node.attribute if one.name == "perm"), ())) if node.op_type == "Transpose" else ()


def on_maps(node: Any, values: Mapping[str, Any], maps: Mapping[str, Tensor], attributes: dict[str, Any], run: Run) -> Any:
    """Return the result of a node with channels first; None where that is not the same.

    Args:
        values: what was computed, by names.
        maps: those of them that are turned, with channels first.
        run: computes the node on some values and attributes.
    """
    turned = [name for name in node.input if name in maps]
    if not turned or len(node.output) != 1:
        return None
    others = [values.get(name) for name in node.input if name and name not in maps]
    numbers = all(isinstance(one, Tensor) and one.numel() == 1 and one.dim() <= 4 for one in others)
    first = {**values, **{name: maps[name] for name in turned}}
    if node.op_type in _OF_ONE and node.input[0] in maps:
        return run(first, attributes)
    if node.op_type in _OF_SEVERAL and numbers:
        return run(first, attributes)
    if node.op_type == "Concat" and len(turned) == len(node.input):
        return run(first, attributes | {"axis": _AXIS[attributes["axis"] % 4]})
    if node.op_type == "Pad" and node.input[0] in maps and len(node.input) < 4 and "pads" not in attributes:
        pads = integers(values[node.input[1]])
        order = [axis for _, axis in sorted((to, axis) for axis, to in _AXIS.items())]
        moved = values[node.input[1]].new_tensor([pads[axis] for axis in order] + [pads[4 + axis] for axis in order])
        return run({**first, node.input[1]: moved}, attributes)
    if node.op_type in _MEANS and len(node.input) == 2 and attributes.get("keepdims", 1):
        axes = values[node.input[1]]
        return run({**first, node.input[1]: axes.new_tensor([_AXIS[axis % 4] for axis in integers(axes)])}, attributes)
    return None
