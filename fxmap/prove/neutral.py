"""Neutral numbers: a destination that agrees only because of what it was built with.

A scale of ones, an update of zeros, an angle of 0: such a tensor without a source leaves everything as it is, as long as
nobody trains it. A layer beside it then agrees with the source where it holds what the source has in the tensor: merged
weights, where the right answer may be the layer's own weights, and other numbers for the tensor. Runs cannot tell these
apart, so that what was computed is matched. A key that is one of the source's, in whatever order, has merged nothing.

Cost: linear in the keys.
"""

from dataclasses import replace

from torch import Tensor

from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Columns, Concat, Gather, Permute, Reshape, Slice, Transpose
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Proof, Status
from fxmap.matching.sides import Side
from fxmap.model.tensors import is_whole
from fxmap.run.deferred import Deferred

_MOVING = (Source, Slice, Gather, Columns, Concat, Reshape, Transpose, Permute)


def without_merged(proof: Proof, mapping: KeyMapping, dst: Side) -> Proof:
    """Return a proof in which computed keys are matched where a tensor without a source has neutral numbers."""
    tensors = dst.main.tensors
    missing = [
        path
        for key, store in dst.twin.stores.items()
        if proof.statuses.get(dst.prefix + key) is Status.MISSING
        for path in store.names
    ]
    if not any(path in tensors and path in dst.main.read and _is_neutral(tensors[path]) for path in missing):
        return proof
    shown_by_runs = (Status.PROVEN, Status.TIED)
    shown = {
        key: Status.MATCHED if status in shown_by_runs and key in mapping and not _moves(mapping[key]) else status
        for key, status in proof.statuses.items()
    }
    return replace(proof, statuses=shown)


def _is_neutral(tensor: Tensor) -> bool:
    """Whether a tensor has one number everywhere, or is the unit matrix."""
    if isinstance(tensor, Deferred) or tensor.is_meta or is_whole(tensor) or not tensor.numel():
        return False
    own = tensor.detach()
    rows = own.reshape(len(own), -1) if own.dim() else own.reshape(1, 1)
    is_unit = rows.shape[0] == rows.shape[1] and bool((rows == rows.new_ones(len(rows)).diag()).all())
    return is_unit or bool((own == own.flatten()[0]).all())


def _moves(expression: Expression) -> bool:
    """Whether an expression moves numbers of the source, and computes none."""
    return isinstance(expression, _MOVING) and all(map(_moves, expression.operands()))
