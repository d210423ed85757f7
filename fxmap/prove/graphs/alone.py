"""Operations of the destination alone: what two models that agree compute in other words.

One model has a convolution where the other has patches and a product, so that neither has a counterpart. Where outputs agree
at random weights and inputs, and every operation that is made of pieces has its counterpart, the two are one analytic
function, and the tensors that such an operation reads are right as far as no other tensors would do. So it is exchanged with
the others of its kind that read tensors of the same shapes: if the outputs change each time, it is the right one, and where
they stay the same, the two are tied.

Cost: one forward pass for each pair that is tried, at most 100.
"""

from collections.abc import Container, Mapping
from dataclasses import replace
from enum import Enum
from itertools import pairwise

import torch
from torch import Tensor

from fxmap.graph.opgraph import OpGraph
from fxmap.mapping.proof import Proof, Status
from fxmap.matching.align.alignment import Evidence
from fxmap.matching.align.symmetry import exchanged_values, rivals
from fxmap.matching.sides import Side
from fxmap.prove.graphs.aligned import varying_operations
from fxmap.prove.graphs.alternatives import Agrees
from fxmap.prove.graphs.context import Context
from fxmap.run.deferred import mean_size

_LIMIT = 100


def alone(dst: Side, told: Container[str], tensors: Mapping[str, Tensor], agrees: Agrees) -> tuple[set[str], set[str]]:
    """Return the operations that read tensors, are not told by a counterpart, and are the right ones or tied.

    Args:
        dst: the destination.
        told: its operations whose counterparts tell what they are.
        tensors: those of the proof.
        agrees: runs the destination with other tensors.

    Returns:
        The operations that no exchange with another one leaves open, and the tensors of those which may be exchanged.
    """
    ops = dst.main.ops
    tried: dict[frozenset[str], Exchange] = {}
    found, tied = set[str](), set[str]()
    for name in varying_operations(dst):
        if name in told or not ops.tensors(name) or (name in ops.pieces and not ops.pieces[name].analytic):
            continue
        others = [other for other in rivals(ops, name) if len(ops.op(other).rows or ()) == len(ops.op(name).rows or ())]
        for other in others:
            both = frozenset((name, other))
            if both not in tried and len(tried) < _LIMIT:
                tried[both] = _tried(ops, name, other, tensors, agrees)
        results = [tried.get(frozenset((name, other)), Exchange.UNKNOWN) for other in others]
        if Exchange.UNKNOWN not in results:
            found.add(name)
        if Exchange.SAME in results:
            tied.update(path for tensor in ops.tensors(name).values() for path in ops.stored(tensor))
    return found, tied


class Exchange(Enum):
    """What exchanging the tensors of two operations does to the outputs."""

    REFUTED = "other outputs, or the tensors are copies"
    SAME = "the same outputs"
    UNKNOWN = "not run"


def _tried(ops: OpGraph, one: str, other: str, tensors: Mapping[str, Tensor], agrees: Agrees) -> Exchange:
    changed = exchanged_values(ops, one, other, tensors) or _exchanged(ops, one, other, tensors)
    if not changed:
        return Exchange.UNKNOWN  # operands that cannot be exchanged
    if all(torch.equal(tensor, tensors[path]) for path, tensor in changed.items()):
        return Exchange.REFUTED  # copies of one tensor are no choice
    if not agrees({**tensors, **changed}):
        return Exchange.REFUTED
    # Of tensors behind a gate that is far no exchange shows: neither does it show where only one of them is changed.
    theirs = {path for tensor in ops.tensors(other).values() for path in ops.stored(tensor)}
    halves = ({path: changed[path] for path in changed if (path in theirs) is half} for half in (False, True))
    return Exchange.UNKNOWN if any(agrees({**tensors, **half}) for half in halves) else Exchange.SAME


def _exchanged(ops: OpGraph, one: str, other: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the stored tensors of two operations exchanged, also those of composed operands; empty if shapes differ."""
    found: dict[str, Tensor] = {}
    theirs = ops.tensors(other)
    for argument, tensor in ops.tensors(one).items():
        for mine, its in zip(ops.stored(tensor), ops.stored(theirs[argument]), strict=False):
            if tensors[mine].shape != tensors[its].shape:
                return {}
            found |= {mine: tensors[its], its: tensors[mine]}
    return found


def summands(context: Context, sizes: Mapping[str, float], agrees: Agrees) -> set[str]:
    """Return the tensors of which only a sum with another one shows: exchanged with it, they leave the outputs as they are.

    Such as two tables of positions, or the two biases of a recurrent cell in other words. Their gradients are the same
    numbers. A bias that belongs to a layer with a counterpart goes where the weight of that layer goes, and is none.

    Args:
        context: the models, and the tensors of the proof.
        sizes: the influence of each tensor of the destination, by path (see `influence`).
        agrees: runs the destination with other tensors.
    """
    tensors, placed = context.weights.dst, _placed(context)
    gradients = {
        path: size / (mean_size(tensors[path]) or 1.0) for path, size in sizes.items() if size and path not in placed
    }
    order = sorted(gradients, key=gradients.__getitem__)
    found: set[str] = set()
    for one, other in pairwise(order):
        pair = tensors[one], tensors[other]
        close = abs(gradients[one] - gradients[other]) <= 1e-9 * gradients[one]
        if not close or pair[0].shape != pair[1].shape or torch.equal(*pair):
            continue
        if agrees({**tensors, one: pair[1], other: pair[0]}):
            found |= {one, other}
    return found


def factors(dst: Side, tensors: Mapping[str, Tensor], agrees: Agrees) -> set[str]:
    """Return the tensors of two products, one right behind the other: exchanged, they leave the outputs as they are.

    Args:
        dst: the destination.
        tensors: those of the proof.
        agrees: runs the destination with other tensors.
    """
    ops, found = dst.main.ops, set[str]()
    for name in varying_operations(dst):
        users = {user for user, _ in ops.users(name)}
        pair = _factor(ops, name), _factor(ops, users.pop()) if len(users) == 1 else ""
        if not all(pair) or pair[0] == pair[1] or tensors[pair[0]].shape != tensors[pair[1]].shape:
            continue
        one, other = tensors[pair[0]], tensors[pair[1]]
        if not torch.equal(one, other) and agrees({**tensors, pair[0]: other, pair[1]: one}):
            found |= set(pair)
    return found


def _factor(ops: OpGraph, name: str) -> str:
    """Return the path of the one tensor that a product reads; empty if the operation is none, or reads several."""
    read = [path for tensor in ops.tensors(name).values() for path in ops.stored(tensor)]
    return read[0] if ops.op(name).kind == "mul" and len(read) == 1 else ""


def _placed(context: Context) -> set[str]:
    """Return the tensors of layers that structure has aligned, and that read several of them on both sides."""
    src, dst = context.src.main.ops, context.dst.main.ops
    layers = [
        dst.tensors(pair.dst).values()
        for pair in context.pairs
        if pair.evidence is not Evidence.VALUES and min(len(src.tensors(pair.src)), len(dst.tensors(pair.dst))) > 1
    ]
    return {path for tensors in layers for tensor in tensors for path in dst.stored(tensor)}


def with_ties(proof: Proof, dst: Side, paths: Container[str]) -> Proof:
    """Return a proof in which the keys of some tensors are tied, where they were proven."""
    tied = {dst.prefix + key for key in dst.twin.stores if any(path in paths for path in dst.names(key))}
    shown = {
        key: Status.TIED if key in tied and status is Status.PROVEN else status for key, status in proof.statuses.items()
    }
    return replace(proof, statuses=shown)
