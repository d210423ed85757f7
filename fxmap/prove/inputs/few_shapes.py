"""Few shapes: what `shapes` yields, with less to compute, for models whose runs take long.

A large model runs on short texts, few samples and narrow maps: what is cut or chosen at a limit shows on a map that is long
along one axis and narrow along the others, at a tenth of the cost.

>>> import torch
>>> for title, choices in few_shapes([torch.zeros(1, 3, 64, 64)], ["numbers"], limits=[16, 200]):
...     print(title, [shape.spatial for shape in choices if title == "size"])
values []
size [(257, 17), (257, 43), (201, 201), (224, 224), (83, 73), (96, 128)]
size [(17, 257), (43, 257), (96, 128)]
size [(51, 43), (96, 128)]
size [(15, 15)]
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from fxmap.prove.inputs.shapes import (
    EXTENTS,
    Choices,
    Shape,
    below_limits,
    beyond_limits,
    has_reals,
    largest,
    lengths_of,
    padded,
    place_of,
    shared_axes,
    single_axes,
    unlike_maps,
    values_of,
)

# The other edges of a map that is long along one axis.
_NARROW = (17, 43)


def few_shapes(
    examples: Sequence[Tensor],
    roles: Sequence[str],
    limits: Sequence[int],
    *,
    sized: bool = False,
    longest: int = EXTENTS.longest,
) -> Iterator[Choices]:
    """Yield what to run: a title, and shapes of which the first that both models accept counts; see `shapes`."""
    if not examples:
        return
    main = largest(examples)
    numbers = has_reals(main)
    is_map, text = numbers and main.dim() > 3, not numbers and main.dim() == 2
    values = values_of(main, "numbers" in roles, is_map and not sized, numbers)
    if text and main.shape[1] > EXTENTS.small_length:
        values = [Shape(len(EXTENTS.scales), sizes={main.shape[1]: EXTENTS.small_length}), *values]
    crowd = _crowds(main, text, numbers)
    if "mask" not in roles and "numbers" not in roles:
        # Nothing is scaled, and no row is padded: two samples do, or those of a large batch.
        values = [*crowd, *(replace(shape, batch=min(shape.batch or 1, 2)) for shape in values)]
        crowd = ()
    yield "values", padded(values, roles)
    if is_map and not sized:
        yield from _maps(tuple(main.shape[2:]), limits)
        if main.dim() > 4:
            yield from single_axes([(place_of(main, examples), axis) for axis in (1, 2)], examples)
    elif not is_map:
        for extent in dict.fromkeys(main.shape[1:]):
            yield from lengths_of(extent, limits, longest, batch=1)
        yield from single_axes(shared_axes(examples, roles), examples)
    if crowd:
        yield "batch", crowd


def _crowds(main: Tensor, text: bool, numbers: bool) -> tuple[Shape, ...]:
    """Return large batches, of short texts; none where a sample is large."""
    sample = main[:1].numel() if main.dim() else 1
    sizes = {main.shape[1]: EXTENTS.shortest} if text else {}
    fits = sample * max(EXTENTS.batches) <= EXTENTS.large
    return tuple(Shape(batch, sizes=sizes, scales=(1.0,) if numbers else ()) for batch in EXTENTS.batches if fits)


def _maps(edges: tuple[int, ...], limits: Sequence[int]) -> Iterator[Choices]:
    """Yield maps that go beyond a limit along one axis each, a smaller one, and one below a limit."""
    larger, smaller, multiples = ([replace(shape, batch=1) for shape in choices] for _, choices in unlike_maps(edges))
    beyond = [shape for _, choices in beyond_limits(edges, limits) for shape in choices]
    longest = max([min(4 * max(edges), EXTENTS.longest - 1) | 1, *(shape.spatial[0] for shape in beyond[:1])])
    yield "size", (*_narrow(longest, 0, len(edges)), *beyond, *larger, *multiples)
    yield from (("size", (*_narrow(longest, axis, len(edges)), *multiples)) for axis in range(1, len(edges)))
    yield "size", (*smaller, *multiples)
    yield from below_limits(edges, limits)


def _narrow(longest: int, axis: int, rank: int) -> list[Shape]:
    return [Shape(1, spatial=tuple(longest if place == axis else edge for place in range(rank))) for edge in _NARROW]
