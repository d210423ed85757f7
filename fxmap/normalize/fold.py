"""Folding of structures that only one of two models has: their counts (`Foldable`), and the choice among them (`Fold`)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Foldable:
    """The numbers of foldable structures in a model, counted before any is folded.

    `sums` of affine branches, `scales` by channel, `norms_before` linear layers, and `weight_norms`: weights that are kept
    as direction and size; `stored_weights` are computed by a mask or by their largest singular value.
    """

    sums: int = 0
    scales: int = 0
    norms_before: int = 0
    weight_norms: int = 0
    stored_weights: int = 0


@dataclass(frozen=True, slots=True)
class Fold:
    """Which structures of `Foldable` are folded in one model; `sums`, `scales` and `norms_before` in sources alone."""

    sums: bool = False
    scales: bool = False
    norms_before: bool = False
    weight_norms: bool = False
    stored_weights: bool = False
