"""Lengths of second inputs: of a memory, of a text beside an image, and of axes of one, which may stand for many.

A change of the largest input changes what has its extents. A second input has lengths of its own, and a model may cut these
as well; a table of positions for all samples may be one for each.

>>> import torch
>>> image, text = torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, dtype=torch.long)
>>> for title, choices in second_lengths([image, text], ["numbers", "indices"], limits=[16]):
...     print(title, [dict(shape.axes) for shape in choices])
length [{(1, 1): 3}]
length [{(1, 1): 14}]
length [{(1, 1): 19}, {(1, 1): 16}]

Cost: none; each is one run of both models.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from fxmap.prove.inputs.shapes import EXTENTS, Axis, Choices, Shape, batch_of, has_reals, largest, lengths_of, place_of

# What stands in the place of one: samples, and positions.
_SAMPLES, _MANY = 3, 5


def second_lengths(
    examples: Sequence[Tensor],
    roles: Sequence[str],
    limits: Sequence[int],
    longest: int = EXTENTS.longest,
    *,
    few: bool = False,
) -> Iterator[Choices]:
    """Yield lengths of the inputs beside the largest one, and more in the place of one; arguments as of `shapes`.

    With `few`, only one length is yielded for each, the longest, and nothing in the place of one.
    """
    for group in _groups(examples, roles) if examples else ():
        place, axis = group[0]
        found = [
            (title, tuple(_on(group, shape) for shape in choices))
            for title, choices in lengths_of(examples[place].shape[axis], limits, longest, batch=2)
        ]
        yield from found[-1:] if few else found
    if examples and not few:
        yield from _in_place_of_one(examples)


def edges_in_front(examples: Sequence[Tensor], limits: Sequence[int], longest: int, *, few: bool) -> Iterator[Choices]:
    """Yield other edges of a map with its channels last, `b h w c`; arguments as of `second_lengths`.

    >>> import torch
    >>> for title, choices in edges_in_front([torch.zeros(2, 6, 8, 3)], [], 300, few=True):
    ...     print(title, [dict(shape.axes) for shape in choices])
    size [{(0, 1): 15, (0, 2): 20}]
    """
    main = largest(examples) if examples else None
    if main is None or not has_reals(main) or main.dim() != 4:
        return
    place = place_of(main, examples)
    height, width = main.shape[1:3]
    yield "size", (Shape(2, axes={(place, 1): 2 * height + 3, (place, 2): 2 * width + 4}),)
    for axis, edge in ((1, height), (2, width)) if not few else ():
        for _, choices in lengths_of(edge, limits, longest, batch=2):
            yield "size", tuple(_on([(place, axis)], shape) for shape in choices)


def _on(group: Iterable[Axis], shape: Shape) -> Shape:
    """Return a shape that changes these axes alone to the extent to which it changes all that have one extent."""
    extent = next(iter(shape.sizes.values()))
    return replace(shape, sizes={}, axes=dict.fromkeys(group, extent))


def _groups(examples: Sequence[Tensor], roles: Sequence[str]) -> list[tuple[Axis, ...]]:
    """Return the axes of the other inputs that have an extent of their own, with those of masks that have the same."""
    main, batch = largest(examples), batch_of(examples)
    is_map = has_reals(main) and main.dim() > 3
    edges, own = main.shape[2:], set(main.shape[1:])
    axes: dict[int, list[Axis]] = {}
    for place, example in enumerate(examples):
        if example is main or (is_map and (example.dim() >= main.dim() or example.shape[-len(edges) :] == edges)):
            continue
        first = int(example.dim() > 0 and example.shape[0] == batch)
        for axis, extent in enumerate(example.shape[first:], start=first):
            if extent > 1 and (is_map or extent not in own):
                axes.setdefault(extent, []).append((place, axis))
    alone = {extent: [axis for axis in found if roles[axis[0]] != "mask"] for extent, found in axes.items()}
    return [tuple(axes[extent]) for extent, found in alone.items() if found]


def _in_place_of_one(examples: Sequence[Tensor]) -> Iterator[Choices]:
    """Yield a sample for each where one stands for all of a batch, and positions in the place of one."""
    main, batch = largest(examples), batch_of(examples)
    for place, example in enumerate(examples):
        for axis, extent in enumerate(example.shape):
            if extent != 1 or (axis == 0 and batch in (None, 1)):
                continue
            if axis == 0:
                yield "values", (Shape(_SAMPLES, axes={(place, 0): _SAMPLES}), Shape(axes={(place, 0): batch or 1}))
            else:
                many = dict.fromkeys((_MANY, *main.shape[1:-1]))
                yield "length", tuple(Shape(axes={(place, axis): count}) for count in many if count > 1)
