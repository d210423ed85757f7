"""Smallest: the shape in which most of the further runs are made.

Cost: none.
"""

from dataclasses import replace
from math import prod

from fxmap.prove.audits.audit import Audit
from fxmap.prove.inputs.shapes import Shape


def smallest(found: Audit, batch: int, *, least: int = 3) -> Shape:
    """Return the smallest shape of a run, in another batch and without scales.

    Extents are `least` or more, if there is such a shape: a sequence of one token says little.
    """
    sizes = [
        (
            any(extent < least for value in inputs.flat() for extent in value.shape[1:]),
            sum(prod(value.shape[1:]) for value in inputs.flat()),
        )
        for inputs, _ in found.samples
    ]
    return replace(found.accepted[sizes.index(min(sizes))], batch=batch, scales=(), form="", padded=False)
