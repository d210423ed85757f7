"""Structural signatures: labels that identify an operation by the operations around it.

Idea: Weisfeiler-Lehman colour refinement on directed graphs. An operation's label is made from its own kind and shapes and
from the labels of its neighbours; equal labels mean equal surroundings. `forward` labels an operation by all its ancestors,
`backward` by all its descendants: a pair whose two labels are equal, and unique in each graph, corresponds. One direction
alone survives a replaced head or another stem; `neighbourhoods` label by the surroundings up to a radius, which survives
differences on both sides. Labels are integers shared by the two graphs, so that they can be compared; the edges' directions
and arguments are part of them.

>>> from fxmap.graph.opgraph import Op, OpGraph
>>> from fxmap.matching.align.view import view
>>> graph = OpGraph()
>>> for name, kind in (("x", "input"), ("a", "relu"), ("b", "relu"), ("c", "relu")):
...     graph.add(Op(name, kind))
>>> for edge in (("x", "a"), ("x", "b"), ("b", "c")):
...     _ = graph.network.add_edge(*edge, argument="input")
>>> side, labels = view(graph), Labels()
>>> [op.name for op in side.ops]
['x', 'a', 'b', 'c']
>>> own = base(side, labels, attributes=True)
>>> x, a, b, c = forward(side, labels, own)
>>> a == b, b == c
(True, False)
>>> x, a, b, c = backward(side, labels, own)
>>> a == b, a == c
(False, True)

Cost: linear in edges for each signature, times the radius for neighbourhoods.
Source: B. Weisfeiler, A. Leman, NTI Series 2 (1968) 12-16; N. Shervashidze et al., JMLR 12 (2011) 2539-2561.
"""

from collections.abc import Hashable
from typing import Any

from fxmap.graph.opgraph import Op
from fxmap.matching.align.view import View


class Labels:
    """Assigns integers to structures: equal structures get the same integer."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def __call__(self, structure: Hashable) -> int:
        return self._numbers.setdefault(structure, len(self._numbers))


def base(view: View, labels: Labels, *, attributes: bool) -> list[int]:
    """Label operations by kind and shapes of tensors, and by static attributes if asked.

    The attributes of a merged norm are left out: another form of the layer has the norm folded, and so lacks them.
    """
    return [
        labels((view.kinds[i], view.shapes[i], own_attributes(view.ops[i]) if attributes else None))
        for i in range(len(view))
    ]


def own_attributes(op: Op) -> tuple[tuple[str, Any], ...]:
    """Return the static attributes of an operation, without those of its layout and of a norm merged into it."""
    return tuple((name, value) for name, value in op.attributes if name not in _LAYOUT and not name.startswith("norm."))


# Attributes of how a weight is stored, and defaults of a convolution of kernel 1, which do not change the computation.
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
