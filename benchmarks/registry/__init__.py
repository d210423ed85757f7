"""Pairs of models that compute one network and name it differently: the project's own registry.

One module a kind of pair. Nothing is imported or built until a pair is run.
"""

from benchmarks.registry import convnets, language, mmpretrain, old_packages, sequence, synthetic, to_transformers
from benchmarks.registry.pair import Pair

PAIRS: dict[str, Pair] = {
    pair.id: pair
    for module in (convnets, to_transformers, old_packages, mmpretrain, language, sequence, synthetic)
    for pair in module.PAIRS
}
