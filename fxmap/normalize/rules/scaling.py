"""Scaling and shifting by a constant is left to values: consumers read through x * 2, x / 8, x + 3.

Attention divides its scores by the root of the head's size before, after, or half before and half in the keys; the
products are the same. Which constants a model uses, every input shows.
"""

from fxmap.graph.kinds import Trait, kinds
from fxmap.graph.opgraph import OpGraph


def pass_through_scaling(graph: OpGraph) -> None:
    """Take operations of one tensor and a number out of a graph."""
    for op in graph.of_kind(kinds(Trait.SCALING)):
        if _of_one_tensor(graph, op.name):
            graph.bypass(op.name, "input")


def _of_one_tensor(graph: OpGraph, name: str) -> bool:
    operands = graph.operands(name)
    return list(operands) == ["input"] and len(operands["input"]) == 1
