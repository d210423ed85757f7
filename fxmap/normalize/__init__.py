"""Normalise: equivalences of operations, one a file, applied until nothing changes.

A rule is an equation between operations that holds for every input. It takes a graph and returns the same object where it
has nothing to do, or a changed copy.
"""

from collections.abc import Callable

from fxmap.graph import OpGraph
from fxmap.normalize.affine import merge_batch_norm
from fxmap.normalize.identity import drop_identities
from fxmap.normalize.linear import restore_linear
from fxmap.normalize.movement import pass_through_movement
from fxmap.normalize.scaling import pass_through_scaling

Rule = Callable[[OpGraph], OpGraph]

RULES: tuple[Rule, ...] = (
    drop_identities,
    restore_linear,
    merge_batch_norm,
    pass_through_movement,
    pass_through_scaling,
)


def normalize(graph: OpGraph) -> OpGraph:
    """Apply every rule, in order; each runs to its own fixpoint, and none makes work for one before it."""
    for rule in RULES:
        graph = rule(graph)
    return graph
