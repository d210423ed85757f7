"""What can be folded of a model, and what is: only what the other model has nothing of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Foldable:
    """How often a model has what can be folded: counted before anything is.

    `sums` of affine branches, `scales` by channel, `norms_before` linear layers, and `weight_norms`: weights that are kept
    as direction and size.
    """

    sums: int = 0
    scales: int = 0
    norms_before: int = 0
    weight_norms: int = 0


@dataclass(frozen=True, slots=True)
class Fold:
    """What is folded of one model, by the names of `Foldable`; `sums`, `scales` and `norms_before` of a source alone."""

    sums: bool = False
    scales: bool = False
    norms_before: bool = False
    weight_norms: bool = False
