"""Structural signatures: what an operation is, by what leads to it and what follows from it.

The forward signature of an operation is a label of all its ancestors with their arrangement, the backward signature one of
all its descendants; equal and unique in both directions pins a pair. One direction alone survives a replaced head or
another stem, and a label of the neighbourhood up to a radius (Weisfeiler-Lehman, directed and aware of arguments) survives
differences on both sides. Labels are interned integers, shared by the two graphs, so that equality is exact.

Cost: linear in edges for each signature, times the radius for neighbourhoods.
Source: B. Weisfeiler, A. Leman (1968); N. Shervashidze et al., JMLR 12 (2011) 2539-2561.
"""

from collections.abc import Hashable
from typing import Any

from fxmap.graph.opgraph import Op
from fxmap.matching.align.view import View


class Labels:
    """Gives equal structures equal integers."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def __call__(self, structure: Hashable) -> int:
        return self._numbers.setdefault(structure, len(self._numbers))


def base(view: View, labels: Labels, *, attributes: bool) -> list[int]:
    """Label operations by kind and shapes of tensors, and by static attributes if asked.

    The attributes of a merged norm are left out: the other form of the layer has it folded, and no longer has them.
    """
    return [
        labels((view.kinds[i], view.shapes[i], own_attributes(view.ops[i]) if attributes else None))
        for i in range(len(view))
    ]


def own_attributes(op: Op) -> tuple[tuple[str, Any], ...]:
    """Return the static attributes of an operation without those of the norm that was merged into it."""
    return tuple((name, value) for name, value in op.attributes if name not in _LAYOUT and not name.startswith("norm."))


# How a weight is stored, and what a convolution of kernel 1 says in defaults: not what is computed.
_LAYOUT = {"axes", "transposed", "output_padding"}


def forward(view: View, labels: Labels, own: list[int]) -> list[int]:
    """Label operations by all their ancestors."""
    result: list[int] = []
    for i in range(len(view)):
        result.append(labels(("forward", own[i], tuple(sorted((argument, result[j]) for argument, j in view.operands[i])))))
    return result


def backward(view: View, labels: Labels, own: list[int]) -> list[int]:
    """Label operations by all their descendants."""
    result = [0] * len(view)
    for i in reversed(range(len(view))):
        result[i] = labels(("backward", own[i], tuple(sorted((argument, result[j]) for argument, j in view.users[i]))))
    return result


def neighbourhoods(view: View, labels: Labels, own: list[int], radius: int) -> list[list[int]]:
    """Label operations by their neighbourhoods of radius 0, 1, ..., `radius`."""
    rounds = [own]
    for _ in range(radius):
        last = rounds[-1]
        rounds.append(
            [
                labels(
                    (
                        "around",
                        last[i],
                        tuple(sorted((argument, last[j]) for argument, j in view.operands[i])),
                        tuple(sorted((argument, last[j]) for argument, j in view.users[i])),
                    )
                )
                for i in range(len(view))
            ]
        )
    return rounds
