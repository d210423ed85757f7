"""Batch norms that an exporter wrote out: `(x - mean) * factor + shift`, with one number a channel.

Exporters of Keras and JAX compute the factor of a norm, `gamma / sqrt(var + eps)`, and leave the rest as it is. As a norm
whose variance and eps add up to 1 it is what it was, so that it is folded, and made of, as any other norm.

>>> import onnx.helper as oh
>>> parts = (("Conv", "xw", "a"), ("Mul", "as", "b"), ("Add", "bt", "y"))
>>> nodes = [oh.make_node(kind, list(inputs), [output]) for kind, inputs, output in parts]
>>> held = {"w": torch.ones(4, 2, 3, 3), "s": torch.ones(4, 1, 1), "t": torch.ones(4, 1, 1)}
>>> written_out(nodes, held, ["y"])
[Norm(entry='a', is_last=False, output='y', mean='', factor='s', shift='t', inner=('b',), starts_last=False)]
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# The operators of a norm, in their order, and whether their operands commute.
_STEPS = (("Sub", False), ("Mul", True), ("Add", True))
# With a variance that is as much less than one, a norm of this eps multiplies by its factor alone.
_EPS = 1e-5
_TO_LAST = {4: [0, 2, 3, 1]}


@dataclass(frozen=True)
class Norm:
    """A norm of a value: the names of its tensors, empty where it has none; `is_last` says that the result is turned.

    Without a factor it is a bias that is added behind the layer, and which belongs to it.
    `entry` has its channels first, unless the norm `starts_last`, where it stands before a layer. `inner` are values between
    it and the `output`, which nothing else reads.
    """

    entry: str
    is_last: bool
    output: str
    mean: str
    factor: str
    shift: str
    inner: tuple[str, ...]
    starts_last: bool = False

    def names(self) -> tuple[str, ...]:
        """Return names for mean, variance, factor and shift; those that the file lacks are made up. None for a bias."""
        if not self.factor:
            return ()
        return (
            self.mean or f"{self.factor}:running_mean", f"{self.factor}:running_var", self.factor,
            self.shift or f"{self.factor}:bias",
        )  # fmt: skip

    def missing(self, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the file does not hold: the variance, and a mean or a shift of zeros."""
        if not self.factor:
            return {}
        mean, variance, factor, shift = self.names()
        zeros = torch.zeros(held[factor].numel())
        return {
            variance: zeros + (1 - _EPS),
            **({} if self.mean else {mean: zeros}),
            **({} if self.shift else {shift: zeros}),
        }

    def __call__(self, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """Normalise a value with channels first, by mean, variance, factor and shift; the result has channels first."""
        if not tensors:
            return x
        mean, variance, factor, shift = tensors
        return torch.nn.functional.batch_norm(x, mean, variance, factor, shift, False, 0.0, _EPS)


def written_out(nodes: Iterable[Any], held: Mapping[str, Tensor], outputs: Iterable[str]) -> list[Norm]:
    """Find the norms that are written out behind convolutions.

    Args:
        nodes: onnx.NodeProtos in their order.
        held: weights by their names.
        outputs: the names of the graph's outputs.
    """
    nodes = list(nodes)
    uses = Counter(name for node in nodes for name in node.input) + Counter(outputs)
    readers = {name: node for node in nodes for name in node.input if uses[name] == 1}
    found = (_behind(node, readers, held) for node in nodes if node.op_type in ("Conv", "ConvTranspose"))
    behind = [norm for norm in found if norm is not None]
    taken = {name for norm in behind for name in (*norm.inner, norm.output)}
    before = [_before(node, readers, held) for node in nodes if node.op_type == "Sub" and node.output[0] not in taken]
    return [
        norm
        for norm in (*behind, *before)
        if norm is not None and all(uses[name] == 1 for name in (norm.mean, norm.factor, norm.shift) if name)
    ]


def _before(node: Any, readers: Mapping[str, Any], held: Mapping[str, Tensor]) -> Norm | None:
    """Return the norm that begins with a subtraction from a map with channels last, as before a layer or behind a sum."""
    entry, mean = node.input
    shape = list(held[mean].shape) if mean in held else []
    if entry in held or len(shape) != 4 or shape[:3] != [1, 1, 1] or shape[3] == 1:
        return None
    tensors, inner = [mean], [node.output[0]]
    for kind in ("Mul", "Add"):
        step = readers.get(inner[-1])
        if step is None or step.op_type != kind:
            return None
        other = step.input[1] if step.input[0] == inner[-1] else step.input[0]
        if other not in held or list(held[other].shape) != shape:
            return None
        tensors.append(other)
        inner.append(step.output[0])
    mean, factor, shift = tensors
    return Norm(entry, True, inner[-1], mean, factor, shift, tuple(inner[:-1]), starts_last=True)


def kernel_chains(nodes: Iterable[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the names of kernels that are moved before a convolution reads them, and the nodes that move them.

    Kernels that are too large for an exporter to fold are turned in the graph: `[kh, kw, c, 1]` to `[c, 1, kh, kw]`.
    """
    nodes = list(nodes)
    made = {output: node for node in nodes for output in node.output}
    uses = Counter(name for node in nodes for name in node.input)
    for layer in nodes:
        chain: list[Any] = []
        name = layer.input[1] if layer.op_type in ("Conv", "ConvTranspose") else ""
        while name in made and made[name].op_type in ("Reshape", "Transpose") and uses[name] == 1:
            chain.insert(0, made[name])
            name = made[name].input[0]
        if chain and uses[name] == 1:
            yield name, chain


def _behind(layer: Any, readers: Mapping[str, Any], held: Mapping[str, Tensor]) -> Norm | None:
    value = entry = layer.output[0]
    weight = held.get(layer.input[1])
    if weight is None:
        return None
    group = next((one.i for one in layer.attribute if one.name == "group"), 1)
    channels = weight.shape[0] if layer.op_type == "Conv" else weight.shape[1] * group
    node, rank = readers.get(value), weight.dim()
    is_last = node is not None and node.op_type == "Transpose" and list(node.attribute[0].ints) == _TO_LAST.get(rank)
    inner: list[str] = []
    if is_last and node is not None:
        inner.append(node.output[0])
        value, node = node.output[0], readers.get(node.output[0])
    shape = [channels] if is_last else [channels] + [1] * (rank - 2)
    tensors = {"Sub": "", "Mul": "", "Add": ""}
    for kind, commutes in _STEPS:
        if node is None or node.op_type != kind:
            continue
        other = node.input[1] if node.input[0] == value else node.input[0] if commutes else ""
        if other not in held or held[other].numel() != channels or list(held[other].squeeze().shape) != [channels]:
            break
        if list(held[other].shape)[-len(shape) :] != shape:
            break
        tensors[kind] = other
        inner.append(node.output[0])
        value, node = node.output[0], readers.get(node.output[0])
    has_bias = len(layer.input) > 2 and bool(layer.input[2])
    # A factor alone is the scale of a layer, such as one that a block learns.
    is_norm = bool(tensors["Mul"]) and bool(tensors["Sub"] or tensors["Add"])
    if channels == 1 or not (is_norm or (tensors["Add"] and not tensors["Sub"] and not tensors["Mul"] and not has_bias)):
        return None
    return Norm(entry, is_last, value, tensors["Sub"], tensors["Mul"], tensors["Add"], tuple(inner[:-1]))
