"""Normalise: equivalences of operations, one a file, applied until nothing changes.

A rule is an equation between operations that holds for every input. It changes the graph that it is given.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, fx

from fxmap.graph import OpGraph
from fxmap.normalize.affine import merge_batch_norm
from fxmap.normalize.composed import compose_operands
from fxmap.normalize.covering import cover_map
from fxmap.normalize.identity import drop_identities
from fxmap.normalize.linear import merge_added_bias, restore_linear
from fxmap.normalize.lookup import index_to_embedding
from fxmap.normalize.movement import pass_through_movement
from fxmap.normalize.pooling import pool_to_mean
from fxmap.normalize.scaling import pass_through_scaling
from fxmap.normalize.squaring import unify_squares
from fxmap.normalize.sums import flatten_sums
from fxmap.normalize.terms import gather_terms
from fxmap.operands import Operands
from fxmap.provenance import split_joined

Rule = Callable[[OpGraph], None]

BEFORE: tuple[Rule, ...] = (
    drop_identities,
    restore_linear,
    merge_added_bias,
    merge_batch_norm,
    pool_to_mean,
    unify_squares,
    index_to_embedding,
)
AFTER: tuple[Rule, ...] = (pass_through_movement, pass_through_scaling, flatten_sums, gather_terms)


def normalize(
    ops: OpGraph, graph: fx.Graph, tensors: Mapping[str, Tensor], constants: Mapping[str, Tensor] | None = None
) -> OpGraph:
    """Apply every rule to a graph that was just built, in order: none makes work for one before it.

    Joined layers are split while the data movement behind them is still there: `graph` is what it is followed in.
    """
    constants = constants or {}
    ops = compose_operands(ops, Operands(graph, tensors, constants))
    cover_map(ops, graph)
    for rule in BEFORE:
        rule(ops)
    split_joined(ops, graph, tensors, constants)
    for rule in AFTER:
        rule(ops)
    return ops
