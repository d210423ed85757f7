"""Normalise: bring an operation graph into the form that models are compared in.

Composed operands become tensors; rules unify the spellings of an operation; structures of which the other model has
none are folded; joined layers are split while the data movement behind them is still there to follow; then nodes that move
and scale values are bypassed. Each phase is an ordered list of rules, applied to a fixpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, fx

from fxmap.graph.operands import Operands
from fxmap.graph.opgraph import OpGraph
from fxmap.graph.pieces import pieces_of
from fxmap.normalize.compose import compose_operands
from fxmap.normalize.driver import rewrite
from fxmap.normalize.fold import Fold, Foldable
from fxmap.normalize.row_views import row_views
from fxmap.normalize.rule import Context, Rewrites, Rule
from fxmap.normalize.rules.affine import MERGE_BATCH_NORM
from fxmap.normalize.rules.branches import FOLD_NORM_BEFORE, FOLD_SCALE, FOLD_SUM, count_branches
from fxmap.normalize.rules.clamping import SELECT_LARGER, SELECT_POSITIVE, UNIFY_BOUNDS
from fxmap.normalize.rules.covering import COVER_MAP
from fxmap.normalize.rules.deviation import ROOT_OF_VARIANCE, VARIANCE_OF_MOMENTS
from fxmap.normalize.rules.distance import DISTANCE
from fxmap.normalize.rules.filled import FILL_CONSTANT
from fxmap.normalize.rules.hard import RESTORE_HARDSIGMOID, RESTORE_HARDSWISH
from fxmap.normalize.rules.identity import DROP_IDENTITY, DROP_NEUTRAL
from fxmap.normalize.rules.inverse_roots import INVERSE_ROOT
from fxmap.normalize.rules.largest import JOIN_LARGEST, UNIFY_LARGEST
from fxmap.normalize.rules.lengths import TO_LENGTH
from fxmap.normalize.rules.linear import MERGE_ADDED_BIAS, MERGE_MOVED_BIAS, RESTORE_LINEAR
from fxmap.normalize.rules.lookup import INDEX_TO_EMBEDDING, PRODUCT_TO_EMBEDDING
from fxmap.normalize.rules.masked import FILL_BY_MASK, FILL_BY_SUM, PASS_CONSTANT_MASKS, SIMPLIFY_MASKS, deep_sums
from fxmap.normalize.rules.masks import CHOOSE_BY_MASK, FILL_AS_CHOICE, NEGATION_AS_COMPARISON, ONE_EQUALITY
from fxmap.normalize.rules.movement import PASS_MOVEMENT, PASS_REPETITION
from fxmap.normalize.rules.nearest import PASS_NEAREST
from fxmap.normalize.rules.numbers import CONSTANT_AS_NUMBER
from fxmap.normalize.rules.padding import CUT_IN_LAYER, PAD_BY_NUMBER, PAD_IN_LAYER
from fxmap.normalize.rules.pieces import NAME_PIECES
from fxmap.normalize.rules.pooling import POOL_TO_MEAN
from fxmap.normalize.rules.scaling import PASS_SCALING
from fxmap.normalize.rules.softmax import LOG_OF_SOFTMAX, RESTORE_LOGSUMEXP, RESTORE_SOFTMAX, SHIFT_SOFTMAX
from fxmap.normalize.rules.squaring import UNIFY_SQUARE
from fxmap.normalize.rules.stacked_pools import STACK_POOLS
from fxmap.normalize.rules.standard import STANDARDIZE
from fxmap.normalize.rules.stored_weights import MERGE_STORED_WEIGHT, count_stored_weights
from fxmap.normalize.rules.sums import FLATTEN_SUM
from fxmap.normalize.rules.terms import GATHER_TERMS
from fxmap.normalize.rules.unit import TO_UNIT
from fxmap.normalize.rules.weight_norm import MERGE_WEIGHT_NORM, count_weight_norms, spread_weights
from fxmap.normalize.split import split_joined

# One spelling for each operation, one operation for each layer.
SPELL: tuple[Rule, ...] = (
    COVER_MAP,
    DROP_IDENTITY,
    DROP_NEUTRAL,
    FILL_CONSTANT,
    RESTORE_LINEAR,
    MERGE_ADDED_BIAS,
    MERGE_BATCH_NORM,
    POOL_TO_MEAN,
    PAD_BY_NUMBER,
    PAD_IN_LAYER,
    CUT_IN_LAYER,
    STACK_POOLS,
    UNIFY_LARGEST,
    JOIN_LARGEST,
    CONSTANT_AS_NUMBER,
    UNIFY_BOUNDS,
    NEGATION_AS_COMPARISON,
    ONE_EQUALITY,
    FILL_AS_CHOICE,
    CHOOSE_BY_MASK,
    SELECT_POSITIVE,
    SELECT_LARGER,
    RESTORE_HARDSIGMOID,
    RESTORE_HARDSWISH,
    UNIFY_SQUARE,
    TO_LENGTH,
    INVERSE_ROOT,
    VARIANCE_OF_MOMENTS,
    ROOT_OF_VARIANCE,
    INDEX_TO_EMBEDDING,
    PRODUCT_TO_EMBEDDING,
    STANDARDIZE,
    RESTORE_SOFTMAX,
    SHIFT_SOFTMAX,
    LOG_OF_SOFTMAX,
    RESTORE_LOGSUMEXP,
    TO_UNIT,
    NAME_PIECES,
    DISTANCE,
    FILL_BY_SUM,
    FILL_BY_MASK,
    SIMPLIFY_MASKS,
)


# After the split of joined layers: only where values come from counts now.
READ_THROUGH: tuple[Rule, ...] = (
    PASS_CONSTANT_MASKS,
    PASS_NEAREST,
    PASS_MOVEMENT,
    MERGE_MOVED_BIAS,
    PASS_REPETITION,
    PASS_SCALING,
    FLATTEN_SUM,
    GATHER_TERMS,
)


@dataclass(frozen=True)
class Normalized:
    """A normalised operation graph, the counts of its foldable structures, and the record of the rules."""

    ops: OpGraph
    foldable: Foldable = field(default_factory=Foldable)
    rewrites: Rewrites = field(default_factory=Rewrites)


def normalize(
    ops: OpGraph,
    graph: fx.Graph,
    tensors: Mapping[str, Tensor],
    constants: Mapping[str, Tensor] | None = None,
    fold: Fold | None = None,
) -> Normalized:
    """Normalise a graph that was just built of `graph`, which reads `tensors` and `constants`.

    Raises:
        InternalError: a rule is applied without end.
    """
    constants, fold = constants or {}, fold or Fold()
    named = {node.name: constants[str(node.target)] for node in graph.nodes if str(node.target) in constants}
    context = Context(compose_operands(ops, Operands(graph, tensors, constants)), graph, named)
    rewrites = Rewrites()
    weight_norms, stored_weights = count_weight_norms(context.ops), count_stored_weights(context)
    kept_apart = [
        rule for rule, one in ((MERGE_WEIGHT_NORM, fold.weight_norms), (MERGE_STORED_WEIGHT, fold.stored_weights)) if one
    ]
    if kept_apart:
        rewrite(context, tuple(kept_apart), rewrites)
        spread_weights(context)
    rewrite(context, SPELL, rewrites)
    context.ops.pieces.update(pieces_of(context.ops, named, deep_sums(context)))
    context.ops.row_views.update(row_views(context))
    sums, scales, norms_before = count_branches(context.ops)
    rewrite(context, _folding(fold), rewrites)
    split_joined(context.ops, graph, tensors, constants)
    rewrite(context, READ_THROUGH, rewrites)
    return Normalized(context.ops, Foldable(sums, scales, norms_before, weight_norms, stored_weights), rewrites)


def _folding(fold: Fold) -> tuple[Rule, ...]:
    """Return the rules that fold branches; a folded sum may have a batch norm behind it, which is then merged."""
    norms = (FOLD_NORM_BEFORE,) if fold.norms_before else ()
    sums = (FOLD_SUM, MERGE_BATCH_NORM) if fold.sums else ()
    return (*norms, *sums, *((FOLD_SCALE,) if fold.scales else ()))
