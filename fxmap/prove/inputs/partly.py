"""Partly special values: one step, channel or row that is 0, 1 or equal to another one, beside ordinary ones.

What code reads as lists and arrays of Python leaves no decision behind that could be turned round, and inputs that are the
same everywhere meet `x[:, 0].tolist() == x[:, -1].tolist()` without showing what comes of it.

>>> from fxmap.model.inputs import as_inputs
>>> sampler = Sampler.of((as_inputs(torch.zeros(2, 3, 4, dtype=torch.float64)),) * 2, ({}, {}))
>>> [text for text, _ in partly(sampler, Shape(2))][:2]
['argument 0 with equal ends of axis 1', 'argument 0 with 0 at the beginning of axis 1']

Cost: none; the draws are as small as the given shape.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fxmap.prove.inputs.samples import Both, Role, Sampler
from fxmap.prove.inputs.shapes import Shape


def partly(sampler: Sampler, shape: Shape) -> Iterator[tuple[str, Both]]:
    """Yield inputs of both models of which a part is special, each with words that say which."""
    values = sampler.values(shape, seed=19)
    for place, slot in enumerate(sampler.slots):
        if slot.role is Role.MASK or values[place].is_complex():
            continue
        for text, changed in _forms(values[place]):
            yield f"{slot.name} {text}", sampler.both_of([*values[:place], changed, *values[place + 1 :]])


def _forms(values: Tensor) -> Iterator[tuple[str, Tensor]]:
    for axis in dict.fromkeys((1, values.dim() - 1)) if values.dim() > 1 else ():
        first, last = (values.narrow(axis, place, 1) for place in (0, values.shape[axis] - 1))
        yield f"with equal ends of axis {axis}", _with(values, axis, -1, first)
        for number in (0, 1):
            yield f"with {number} at the beginning of axis {axis}", _with(values, axis, 0, torch.full_like(first, number))
            yield f"with {number} at the end of axis {axis}", _with(values, axis, -1, torch.full_like(last, number))
        yield f"the same along axis {axis}", first.expand(values.shape).clone()
    if values.is_floating_point():
        yield "of -1 and 1", values.sign()


def _with(values: Tensor, axis: int, place: int, part: Tensor) -> Tensor:
    changed = values.clone()
    changed.select(axis, place).copy_(part.squeeze(axis))
    return changed
