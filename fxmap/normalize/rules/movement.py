"""Data movement computes nothing: consumers read through it.

view(x), permute(x), flatten(x), chunk(x)[i] and their like hold the elements of x and no others. Which elements a consumer
reads, and in which order, is left to the proof; structure alone needs only where values come from.
"""

from fxmap.graph.kinds import Trait, kinds
from fxmap.graph.opgraph import OpGraph


def pass_through_movement(graph: OpGraph) -> None:
    """Take data movement out of a graph."""
    for op in graph.of_kind(kinds(Trait.MOVEMENT)):
        if len(graph.operands(op.name).get("input", [])) == 1:
            graph.bypass(op.name, "input")
    for op in graph.of_kind(kinds(Trait.JOIN)):
        if len(_producers(graph, op.name)) == 1:  # a value joined to itself is repeated: heads that share keys and values
            graph.bypass(op.name, next(iter(graph.operands(op.name))))


def _producers(graph: OpGraph, name: str) -> set[str]:
    return {producer for producers in graph.operands(name).values() for producer in producers}
