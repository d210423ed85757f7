"""Images that a file scales before its network begins: Keras' applications take numbers from 0 to 255 and scale them inside.

Models of torch are given images that were scaled before. What scales them is a function of the image and of fixed numbers
alone, so that the network behind it can be mapped, and proven, on images as they come of it.

>>> import onnx.helper as oh
>>> import torch
>>> rows = (("Mul", "xs", "a"), ("Sub", "am", "b"), ("Conv", "bw", "y"))
>>> nodes = [oh.make_node(kind, list(inputs), [output]) for kind, inputs, output in rows]
>>> numbers = {"s": torch.tensor(1 / 255), "m": torch.tensor([0.5, 0.4, 0.3]).view(1, 1, 1, 3)}
>>> print(scaling_of(nodes, "x", numbers))
x * 0.003922 - [0.5, 0.4, 0.3]
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_SIGNS = {"Add": "+", "Div": "/", "Mul": "*", "Sub": "-"}
_COMMUTES = ("Add", "Mul")
# Channels of an image.
_MOST = 4


@dataclass(frozen=True)
class Scaling:
    """Operations by which an input is scaled: their results, the last of which is read on, and the tensors they read."""

    entry: str
    results: tuple[str, ...]
    tensors: tuple[str, ...]
    shown: str

    def __str__(self) -> str:
        return self.shown


def scaling_of(nodes: Iterable[Any], entry: str, numbers: Mapping[str, Tensor]) -> Scaling | None:
    """Return what scales an input before anything else reads it; None where nothing does.

    Args:
        nodes: onnx.NodeProtos in their order.
        entry: the name of the input.
        numbers: what the file holds, by name: one number, or one for each channel of an image.
    """
    nodes = list(nodes)
    uses = Counter(name for node in nodes for name in node.input)
    readers = {name: node for node in nodes for name in node.input if uses[name] == 1}
    results: list[str] = []
    tensors: list[str] = []
    shown, value = entry, entry
    while (node := readers.get(value)) is not None and node.op_type in _SIGNS:
        first, second = node.input
        other = second if first == value else first if node.op_type in _COMMUTES else ""
        if other not in numbers or not _is_of_channels(numbers[other]):
            break
        sign = _SIGNS[node.op_type]
        shown = f"({shown})" if sign in "*/" and results else shown
        shown = f"{shown} {sign} {_text(numbers[other])}"
        results.append(node.output[0])
        tensors += [other] if uses[other] == 1 else []
        value = node.output[0]
    return Scaling(entry, tuple(results), tuple(tensors), shown) if results else None


def _is_of_channels(number: Tensor) -> bool:
    wide = [extent for extent in number.shape if extent != 1]
    return number.is_floating_point() and (not wide or (len(wide) == 1 and wide[0] <= _MOST and number.dim() in (1, 3, 4)))


def _text(number: Tensor) -> str:
    shown = [f"{one:.4g}" for one in number.flatten().tolist()]
    return shown[0] if len(set(shown)) == 1 else f"[{', '.join(shown)}]"
