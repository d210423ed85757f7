"""Group norms that exporters of torch write as an instance norm of values with their groups in the place of channels.

    group_norm(x, G) = reshape(instance_norm(reshape(x, [0, G, -1]), 1, 0), shape of x)

Weight and bias are multiplied and added behind. The instance norm has a factor of 1 and a shift of 0, which are no weights.

>>> import onnx.helper as oh, torch
>>> rows = ("Reshape", "xg", "a"), ("InstanceNormalization", "aoz", "b"), ("Shape", "x", "s"), ("Reshape", "bs", "y")
>>> nodes = [oh.make_node(kind, list(inputs), [output]) for kind, inputs, output in rows]
>>> group_norms(nodes, {"g": torch.tensor([0, 4, -1]), "o": torch.ones(4), "z": torch.zeros(4)})
{'y': GroupNorm(value='x', samples=0, groups=4, eps=1e-05, neutral=('o', 'z'))}
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fxmap.sources.onnx.records.values import exact


@dataclass(frozen=True)
class GroupNorm:
    """A group norm of a value: the names of the value, and of the ones and zeros that it is scaled and shifted by.

    `samples` is the number of samples that it takes, 0 for any.
    """

    value: str
    samples: int
    groups: int
    eps: float
    neutral: tuple[str, str]

    def __call__(self, x: Tensor, shape: Any) -> Tensor | None:
        """Return the norm of a value; None where the result is to have another shape."""
        fits = x.dim() > 2 and x.shape[1] % self.groups == 0 and self.samples in (0, x.shape[0])
        if not fits or [int(one) for one in shape] != list(x.shape):
            return None
        return F.group_norm(x, self.groups, None, None, self.eps)


def group_norms(nodes: Iterable[Any], known: Mapping[str, Tensor]) -> dict[str, GroupNorm]:
    """Return the group norms by the names of their results; `known` are the numbers of initializers and constants."""
    nodes = list(nodes)
    made = {output: node for node in nodes for output in node.output}
    found = {}
    for last in nodes:
        norm = _made_by("InstanceNormalization", last, made) if last.op_type == "Reshape" else None
        first = None if norm is None else _made_by("Reshape", norm, made)
        extents = None if first is None else _groups(first, known)
        if norm is None or first is None or extents is None:
            continue
        samples, groups = extents
        one, zero = (known.get(name) for name in norm.input[1:3])
        if one is None or zero is None or one.numel() != groups or bool((one != 1).any()) or bool(zero.any()):
            continue
        eps = next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), 1e-5)
        found[last.output[0]] = GroupNorm(first.input[0], samples, groups, exact(eps), (norm.input[1], norm.input[2]))
    return found


def _made_by(kind: str, node: Any, made: Mapping[str, Any]) -> Any:
    before = made.get(node.input[0])
    return before if before is not None and before.op_type == kind else None


def _groups(reshape: Any, known: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Return the samples, 0 for any number, and the groups that a value is reshaped to, with the rest behind."""
    shape = known.get(reshape.input[1])
    if shape is None or shape.numel() != 3:
        return None
    samples, groups, rest = shape.tolist()
    return (int(samples), int(groups)) if samples >= 0 and rest == -1 and groups > 0 else None
