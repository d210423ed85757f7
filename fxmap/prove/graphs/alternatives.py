"""Alternatives: whether an operation can be exchanged with another one that reads the same values.

One model spells out what another has as one operation (GELU, attention), so that the readers of q, k, a gate or its values
have no counterpart, and cannot tell these apart. Then a run decides: if the outputs differ with the tensors of the two
exchanged, the two are no alternatives.

Cost: one forward pass for each pair that is tried, at most 100.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from fxmap.graph.opgraph import OpGraph
from fxmap.matching.align.symmetry import exchanged_values, rivals

# So many exchanges are run, each a forward pass: the rest stays unclear, so that a deep model does not take minutes.
_LIMIT = 100

# Runs the destination with other tensors, and tells whether the outputs stay the same.
Agrees = Callable[[Mapping[str, Tensor]], bool]


def told_apart(ops: OpGraph, unclear: Sequence[str], tensors: Mapping[str, Tensor], agrees: Agrees) -> set[str]:
    """Return the operations that cannot be exchanged with any other operation that reads the same values.

    Args:
        ops: the destination.
        unclear: its operations that their readers do not tell apart.
        tensors: those of the proof.
        agrees: runs the destination with other tensors.
    """
    refuted: dict[frozenset[str], bool] = {}
    found = set()
    for name in unclear:
        others = rivals(ops, name)
        for other in others:
            both = frozenset((name, other))
            if both not in refuted and len(refuted) < _LIMIT:
                changed = exchanged_values(ops, name, other, tensors)
                refuted[both] = changed is not None and not agrees({**tensors, **changed})
        if others and all(refuted.get(frozenset((name, other))) for other in others):
            found.add(name)
    return found
