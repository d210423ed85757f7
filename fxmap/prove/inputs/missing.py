"""Missing values: numbers that are none, and infinite ones, at some places of an input.

Code that asks for them (`isnan`, `nan_to_num`, `x != x`) puts something else there, such as an embedding for what is
missing: without such an input it moves nothing. Only what both models make numbers of is compared.

>>> from fxmap.model.inputs import as_inputs
>>> both = (as_inputs(torch.zeros(2, 3, dtype=torch.float64)),) * 2
>>> text, (inputs, _) = next(missing(Sampler.of(both, ({}, {})), Shape(2)))
>>> text, torch.isnan(inputs.flat()[0]).tolist()
('argument 0 nan at every third place', [[True, False, False], [True, False, False]])

Cost: none; each is one run of both models, on small inputs.
"""

from collections.abc import Iterator
from math import inf, nan

import torch
from torch import Tensor

from fxmap.prove.inputs.samples import Both, Role, Sampler
from fxmap.prove.inputs.shapes import Shape

_INPUTS = 3


def missing(sampler: Sampler, shape: Shape) -> Iterator[tuple[str, Both]]:
    """Yield inputs of both models of which one lacks some numbers, each with words for it."""
    values = sampler.values(shape, seed=17)
    places = [
        place
        for place, (slot, value) in enumerate(zip(sampler.slots, values, strict=True))
        if slot.role is Role.NUMBERS and value.is_floating_point() and value.dim()
    ]
    for place in places[:_INPUTS]:
        for text, flags in _places(values[place]):
            for name, number in (("nan", nan), ("inf", inf), ("-inf", -inf)):
                changed = values[place].masked_fill(flags, number)
                words = f"{sampler.slots[place].name} {name} {text}"
                yield words, sampler.both_of([*values[:place], changed, *values[place + 1 :]])


def _places(value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield where numbers are missing: here and there, in the first and the last column, and in a whole sample."""
    none = torch.zeros(value.shape, dtype=torch.bool)
    yield "at every third place", (torch.arange(value.numel()) % 3 == 0).reshape(value.shape)
    for text, column in (("in the first column", slice(0, 1)), ("in the last column", slice(-1, None))):
        flags = none.clone()
        flags[..., column] = True
        yield text, flags
    flags = none.clone()
    flags[:1] = True
    yield "in the first sample", flags
