"""Pairs of models that compute one network and name it differently: the project's own registry.

One module a kind of pair. Nothing is imported or built until a pair is run. The known pairs have truth maps; the unseen
ones have none, and nothing was tuned on them: their functions decide.
"""

from benchmarks.registry import (
    convnets,
    dino,
    language,
    mmpretrain,
    old_packages,
    old_zoos,
    pytorchcv_convnets,
    sequence,
    synthetic,
    to_transformers,
    unseen_convnets,
    unseen_forms,
    unseen_transformers,
    vits,
)
from benchmarks.registry.pair import Pair

_KNOWN = (
    convnets,
    pytorchcv_convnets,
    to_transformers,
    vits,
    dino,
    old_zoos,
    old_packages,
    mmpretrain,
    language,
    sequence,
    synthetic,
)
_UNSEEN = (unseen_convnets, unseen_transformers, unseen_forms)

GROUPS: dict[str, dict[str, Pair]] = {
    "known": {pair.id: pair for module in _KNOWN for pair in module.PAIRS},
    "unseen": {pair.id: pair for module in _UNSEEN for pair in module.PAIRS},
}
PAIRS: dict[str, Pair] = GROUPS["known"] | GROUPS["unseen"]
