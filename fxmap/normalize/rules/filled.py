"""x.new_zeros(shape) = zeros(shape), zeros_like(x) = zeros(shape): what is filled with one number depends on no value.

Holds for every input of the size that was recorded: x gives the shape and the dtype alone.
"""

from dataclasses import replace

from fxmap.graph.kinds import Trait, facts, kinds
from fxmap.graph.opgraph import OpGraph, drop_dead


def fill_constants(graph: OpGraph) -> None:
    """Cut what is filled with one number off the value that it has the shape of."""
    found = [op for op in graph.of_kind(kinds(Trait.FILLED)) if list(graph.operands(op.name)) == ["input"]]
    for op in found:
        graph.network.remove_edges_from(list(graph.network.in_edges(op.name, keys=True)))
        graph.add(replace(op, kind=facts(op.kind).filled))
    if found:
        drop_dead(graph)
