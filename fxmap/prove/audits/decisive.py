"""Decisive shapes: the few sizes that tell most, for models of which few can be run.

What code asks of a size names the size: a batch that is compared with a number, or divided by one; an area, which maps with
other edges have as well.

>>> import torch
>>> from fxmap.prove.code.decisions import Site
>>> log = Log(sizes={8}, batches={8}, alike={16})
>>> log.outcomes[0][Site("file", 1, 0, 0, by_value=False)] = {False}
>>> [shape.batch for shape in decisive_shapes([torch.zeros(2, 6, 8)], log, [])]
[0, 8, 9]
>>> [shape.spatial for shape in decisive_shapes([torch.zeros(1, 3, 32, 32)], log, [])][:2]
[(), (16, 64)]

Cost: none; each is one run of both models.
"""

from collections.abc import Iterator, Sequence
from math import isqrt, prod

from torch import Tensor

from fxmap.prove.code.decision_log import Log
from fxmap.prove.inputs.shapes import EXTENTS, Shape, batch_of, has_reals, largest, of_one_area

# How many batches are run, the largest, and for how many of the limits of the models.
_BATCHES, _LARGEST, _LIMITS = 4, 128, 2


def decisive_shapes(examples: Sequence[Tensor], log: Log, limits: Sequence[int]) -> list[Shape]:
    """Return the shapes that decide most: no sample at all, a map of one area, and batches where a decision went one way.

    Args:
        examples: the tensors of the source's inputs.
        log: the decisions so far.
        limits: numbers that the models hold, for code that asks for the length of a tensor, which is not watched.
    """
    if not examples or batch_of(examples) is None:
        return []
    main = largest(examples)
    found = [Shape(0)]
    areas = log.sizes | log.alike
    if main.dim() == 4 and has_reals(main) and any(_is_area(prod(main.shape[2:]), int(size)) for size in areas):
        found += [Shape(1, spatial=edges) for edges in of_one_area(tuple(main.shape[2:]))[:1]]
    text = main.dim() == 2 and not has_reals(main) and main.shape[1] > EXTENTS.shortest
    sample = EXTENTS.shortest if text else main[:1].numel()
    wanted = dict.fromkeys(_batches(log, limits, main[:1].numel()))
    fits = [count for count in wanted if 1 < count <= _LARGEST and count * sample <= EXTENTS.large]
    return [*found, *(Shape(count, sizes={main.shape[1]: EXTENTS.shortest} if text else {}) for count in fits[:_BATCHES])]


def _batches(log: Log, limits: Sequence[int], sample: int) -> Iterator[int]:
    """Yield the batches that code asks for: by itself, by a number of elements, by a length."""
    if any(log.open(by_value=False)):
        yield from (count for number in sorted(log.batches) for count in (number, number + 1))
        yield from (int(size) // max(sample, 1) + 1 for size in sorted(log.sizes) if size > 2 * sample)
    if log.lengths:
        yield from (limit + 1 for limit in [limit for limit in limits if limit < _LARGEST][-_LIMITS:])


def _is_area(area: int, size: int) -> bool:
    """Whether a number is the area of a map, in squares of some edge."""
    return size >= EXTENTS.least_area and area % size == 0 and isqrt(area // size) ** 2 == area // size
