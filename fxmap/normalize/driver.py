"""Normalise: equivalences of operations, one a file, applied until nothing changes.

A rule is an equation between operations that holds for every input. It changes the graph that it is given.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, fx

from fxmap.graph.operands import Operands
from fxmap.graph.opgraph import OpGraph
from fxmap.normalize.rules.affine import merge_batch_norm
from fxmap.normalize.rules.branches import count_branches, fold_norms_before, fold_scales, fold_sums
from fxmap.normalize.rules.composed import compose_operands
from fxmap.normalize.rules.covering import cover_map
from fxmap.normalize.rules.filled import fill_constants
from fxmap.normalize.rules.identity import drop_identities
from fxmap.normalize.rules.linear import merge_added_bias, restore_linear
from fxmap.normalize.rules.lookup import index_to_embedding
from fxmap.normalize.rules.movement import pass_through_movement
from fxmap.normalize.rules.pooling import pool_to_mean
from fxmap.normalize.rules.scaling import pass_through_scaling
from fxmap.normalize.rules.squaring import unify_squares
from fxmap.normalize.rules.sums import flatten_sums
from fxmap.normalize.rules.terms import gather_terms
from fxmap.normalize.rules.weight_norm import count_weight_norms, merge_weight_norms
from fxmap.normalize.split import split_joined

Rule = Callable[[OpGraph], None]


BEFORE: tuple[Rule, ...] = (
    drop_identities,
    fill_constants,
    restore_linear,
    merge_added_bias,
    merge_batch_norm,
    pool_to_mean,
    unify_squares,
    index_to_embedding,
)


AFTER: tuple[Rule, ...] = (pass_through_movement, pass_through_scaling, flatten_sums, gather_terms)


class Fold(NamedTuple):
    """What is folded of one model, since the other has nothing of the kind.

    `sums` of affine branches, `scales` by channel and `norms_before` linear layers, of a source alone; weights that are kept
    as direction and size.
    """

    sums: bool = False
    scales: bool = False
    norms_before: bool = False
    weight_norms: bool = False


def normalize(
    ops: OpGraph,
    graph: fx.Graph,
    tensors: Mapping[str, Tensor],
    constants: Mapping[str, Tensor] | None = None,
    fold: Fold | None = None,
) -> OpGraph:
    """Apply every rule to a graph that was just built, in order: none makes work for one before it.

    Joined layers are split while the data movement behind them is still there: `graph` is what it is followed in.
    """
    constants = constants or {}
    ops = compose_operands(ops, Operands(graph, tensors, constants))
    ops.foldable.append(count_weight_norms(ops))
    if fold is not None and fold.weight_norms:
        ops = merge_weight_norms(ops, graph)
    cover_map(ops, graph)
    for rule in BEFORE:
        rule(ops)
    ops.foldable[:0] = count_branches(ops)
    if fold is not None and fold != Fold():
        _fold(ops, fold)
    split_joined(ops, graph, tensors, constants)
    for rule in AFTER:
        rule(ops)
    return ops


def _fold(ops: OpGraph, fold: Fold) -> None:
    if fold.norms_before:
        fold_norms_before(ops)
    if fold.sums:
        fold_sums(ops)
        merge_batch_norm(ops)
    if fold.scales:
        fold_scales(ops)
