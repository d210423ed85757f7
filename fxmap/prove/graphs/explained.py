"""Explained differences: whether the outputs differ because of a known difference of the models, or of a wrong mapping.

Two models may differ by themselves: another activation, another eps, a replaced head. No mapping mends that, and whoever
reads its name can judge it. Where nothing of that kind stands at the place where the models part, the tensors are the wrong
ones, or the two were aligned wrongly: the run refutes the mapping.

Explained is a pair that differs in a static attribute or a constant, or is two activations; that reads a tensor which the
mapping leaves to the destination, and says so; before which one model alone has an activation; or that reads an input which
went through other steps before.

Cost: that of looking for the cause of each pair that differs.
"""

from collections import Counter
from collections.abc import Mapping
from math import isfinite

from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import OUTPUT
from fxmap.mapping.proof import SINGLE_TOLERANCE
from fxmap.matching.align.alignment import Pair
from fxmap.matching.align.signatures import own_attributes
from fxmap.matching.plan import Plan
from fxmap.matching.sides import Side
from fxmap.prove.graphs.aligned import unaligned_before
from fxmap.prove.graphs.causes import attribute_cause, constant_cause, input_cause
from fxmap.prove.graphs.context import Context

# Activations, norms and pools: whichever weights are loaded, one is not the other, and none is not one.
NO_WEIGHTS_MAKE_UP = frozenset[str]().union(
    ("adaptive_avg_pool", "adaptive_max_pool", "avg_pool", "max_pool"),
    ("batch_norm", "group_norm", "instance_norm", "layer_norm", "normalize", "rms_norm"),
    ("celu", "clamp", "clamp_min", "elu", "exp", "gelu", "glu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu"),
    ("log_sigmoid", "log_softmax", "mish", "prelu_kernel", "relu", "selu", "sigmoid", "silu", "softmax", "softmin"),
    ("softplus", "softsign", "tanh", "threshold"),
)


def is_explained(context: Context, first: Pair | None, errors: Mapping[Pair, float]) -> bool:
    """Tell whether known differences of the models explain that their outputs differ.

    Args:
        context: the two models and their pairs.
        first: the pair at which they part; None where all pairs agree and the outputs alone differ.
        errors: the error of every pair. Behind a difference, the destination went on with the source's values, so that an
            error there is a difference of its own.
    """
    if first is None:
        ours, theirs = (_output(side) for side in (context.src, context.dst))
        return _has_one_alone(context, ours, theirs)
    others = [pair for pair, error in errors.items() if pair != first and error > SINGLE_TOLERANCE and isfinite(error)]
    return all(_explains(context, pair) for pair in (first, *others))


def same_operations(plan: Plan) -> bool:
    """Whether two models have the same activations, norms and pools, with the same attributes, wherever they stand."""
    found = []
    for side in (plan.src, plan.dst):
        ops = [op for op in side.main.ops.ops() if op.kind in NO_WEIGHTS_MAKE_UP]
        found.append(Counter((op.kind, own_attributes(op)) for op in ops))
    return found[0] == found[1]


def _explains(context: Context, pair: Pair) -> bool:
    kinds = context.src.main.ops.op(pair.src).kind, context.dst.main.ops.op(pair.dst).kind
    if kinds[0] != kinds[1] and not all(has(kind, Trait.AFFINE) for kind in kinds):
        return set(kinds) <= NO_WEIGHTS_MAKE_UP
    if attribute_cause(context, pair.src, pair.dst) or constant_cause(context, pair):
        return True
    ops, prefix = context.dst.main.ops, context.dst.prefix
    tensors = ops.tensors(pair.dst)
    changed = [prefix + key for name, same in context.same[pair].items() if not same for key in ops.stored(tensors[name])]
    if changed:
        return not any(key in context.mapping for key in changed)
    return input_cause(context, pair) is not None or _has_one_alone(context, pair.src, pair.dst)


def _has_one_alone(context: Context, src: str, dst: str) -> bool:
    """Whether only one model has an operation there that no weights can replace, or each of them has another one.

    Several on both sides are often the same function spelled in two ways, which explains nothing; and operations that move
    numbers, add or scale may have to be compensated by other weights. A mean is a pool where it stands for itself, and may
    be a part of a norm by hand where it does not.
    """
    ours, theirs = unaligned_before(context.src, src, context.images), unaligned_before(context.dst, dst, context.partners)
    kinds = [{side.main.ops.op(name).kind for name in names} for side, names in ((context.src, ours), (context.dst, theirs))]
    if not (ours and theirs):
        alone = kinds[0] | kinds[1]
        return bool(alone & NO_WEIGHTS_MAKE_UP) or alone == {"mean"}
    return len(ours) == len(theirs) == 1 and kinds[0] != kinds[1] and kinds[0] | kinds[1] <= NO_WEIGHTS_MAKE_UP


def _output(side: Side) -> str:
    ops = side.main.ops
    return next(op.name for op in ops.ops() if op.kind == OUTPUT)
