"""Samples: inputs for an audit, drawn so that nothing about them is special.

What a user gives as an example is often constant: a mask of ones, segments of 0, one token, a timestep of 0, a batch of one,
a size that is a power of two. Two functions that differ elsewhere agree on it. So every input is drawn anew by its role
(numbers, a mask, indices of a table, other integers), in other batches, sizes and lengths, and numbers in several scales.

>>> from fxmap.model.inputs import as_inputs
>>> both = (as_inputs({"ids": torch.tensor([[5, 5]]), "mask": torch.ones(1, 2, dtype=torch.long)}),) * 2
>>> sampler = Sampler.of(both, ({0: 9}, {0: 9}))
>>> [(slot.name, slot.role.value) for slot in sampler.slots]
[('ids', 'indices'), ('mask', 'mask')]
>>> [tuple(tensor.shape) for tensor in sampler.draw(Shape(batch=3, sizes={2: 6}), seed=0)[0].flat()]
[(3, 6), (3, 6)]
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import permutations

import torch
from torch import Tensor

from fxmap.model.inputs import Inputs, counterparts, names_of, size_of

Both = tuple[Inputs, Inputs]
# The index of the source tensor that a destination tensor equals, and the order of its axes; None if it equals none of them.
Link = tuple[int, tuple[int, ...]] | None


class Role(Enum):
    """The meaning of the values of an input."""

    NUMBERS = "numbers"
    MASK = "mask"
    INDICES = "indices"
    INTEGERS = "integers"


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of the source's inputs: its name, its role, and for indices the number of rows of their table."""

    name: str
    role: Role
    example: Tensor
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """A change of the shapes of the inputs, with the scales of their samples.

    Attributes:
        batch: the extent of the first axis of all inputs, if they have one in common.
        sizes: the new extent of every other axis that has a given extent.
        spatial: the new extents of the last axes of maps, `b c h w` or `b c d h w`.
        scales: the factors of the samples of a batch, one after the other.
    """

    batch: int | None = None
    sizes: Mapping[int, int] = field(default_factory=dict)
    spatial: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Draws:
    """The constants of the random draws."""

    # Samples of one batch: as a user's, tiny, large, and larger than most thresholds that code has.
    scales: tuple[float, ...] = (1.0, 1e-3, 30.0, 1000.0)
    # Where these leave no numbers, as an exponential does.
    milder: tuple[float, ...] = (1.0, 1e-3, 3.0, 8.0)
    # The share of a sparse sample that is 0, and of a mask that is a hole.
    sparse: float = 0.7
    holes: float = 0.35
    # Integers without a table are timesteps, lengths, bins or branches: the largest that both models accept, up to these.
    integers: tuple[int, ...] = (1000, 100, 30, 9, 4, 3, 2)
    # Edges of maps that are tried before the given one, since an audit is many runs.
    small_maps: tuple[int, ...] = (48, 64, 96)
    # Other sizes of maps, axis by axis: above and below, and odd.
    factors: tuple[tuple[float, float, float], ...] = ((1.3, 1.12, 1.2), (0.8, 0.66, 0.7))
    # The longest sequence that is run, and how many limits of the models are tried, the largest first.
    longest: int = 300
    limits: int = 12


DRAWS = Draws()


@dataclass(frozen=True)
class Sampler:
    """Draws the same inputs for both models, for each in its own order and layout.

    `largest` is that of integers that have no table, 0 for the largest of the example: lengths must fit, timesteps need not.
    """

    both: Both
    slots: tuple[Slot, ...]
    links: tuple[Link, ...]
    largest: int = DRAWS.integers[0]

    @classmethod
    def of(cls, both: Both, tables: tuple[Mapping[int, int], Mapping[int, int]]) -> "Sampler":
        """Find the roles and links of the inputs; `tables` are the rows of the tables that they index, by their position."""
        ours, links = both[0].flat(), _links(both)
        rows: dict[int, list[int]] = {place: [rows] for place, rows in tables[0].items()}
        for place, link in enumerate(links):
            if link is not None and place in tables[1]:
                rows.setdefault(link[0], []).append(tables[1][place])
        names = names_of(both[0])
        alone = len(ours) == 1
        slots = tuple(_slot(names[i], tensor, min(rows.get(i, [0])), alone) for i, tensor in enumerate(ours))
        return cls(both, slots, links)

    @property
    def unlinked(self) -> list[str]:
        """The names of the destination's inputs that are not related to any of the source's."""
        names = names_of(self.both[1])
        return [names[place] for place, link in enumerate(self.links) if link is None]

    def draw(self, shape: Shape, seed: int) -> Both:
        """Draw new values for every input of both models, in other shapes."""
        generator = torch.Generator().manual_seed(seed)
        batch = common_batch([slot.example for slot in self.slots])
        drawn = [self._draw(slot, _reshaped(slot.example, shape, batch), shape.scales, generator) for slot in self.slots]
        theirs = list(self.both[1].flat())
        for place, link in enumerate(self.links):
            if link is not None:
                theirs[place] = drawn[link[0]].permute(link[1]).to(theirs[place].dtype)
        return _with(self.both[0], drawn), _with(self.both[1], theirs)

    def _draw(self, slot: Slot, shape: tuple[int, ...], scales: Sequence[float], generator: torch.Generator) -> Tensor:
        example = slot.example
        if slot.role is Role.MASK:
            return _mask(example, shape, generator)
        if slot.role is Role.INDICES:
            return torch.randint(0, slot.rows, shape, generator=generator).to(example.dtype)
        if slot.role is Role.INTEGERS:
            top = int(example.max()) if example.numel() else 0
            low = int(not self.largest and example.numel() > 0 and int(example.min()) > 0)
            high = max(1, top) if not self.largest else max(self.largest, 2 * top * (self.largest == DRAWS.integers[0]))
            return torch.randint(low, high + 1, shape, generator=generator).to(example.dtype)
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        if example.is_complex():
            values = torch.complex(values, torch.randn(shape, generator=generator, dtype=torch.float64))
        if scales and values.dim() > 1:
            values = _scaled(values, scales, generator)
        return values.to(example.dtype)


def _scaled(values: Tensor, scales: Sequence[float], generator: torch.Generator) -> Tensor:
    """Give each sample a scale; the second of four is sparse, the third of one sign, if it is real."""
    keep = torch.rand(values.shape, generator=generator) > DRAWS.sparse
    for index in range(values.shape[0]):
        sample = values[index] * scales[index % len(scales)]
        if index % 4 == 1:
            sample = sample * keep[index]
        elif index % 4 == 2 and not values.is_complex():
            sample = sample.abs()
        values[index] = sample
    return values


def _mask(example: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw a mask with holes; the first position of every row keeps the usual value, so that no row is masked out."""
    usual = bool(example.double().mean() >= 0.5) if example.numel() else True
    holes = torch.rand(shape, generator=generator) < DRAWS.holes
    if len(shape) > 1 and shape[-1] > 1:
        holes[..., 0] = False
        # A hole for certain, and another row without one at the same place.
        rows = holes.view(-1, shape[-1])
        rows[0, -1] = True
        if rows.shape[0] > 1:
            rows[-1, -1] = False
    elif holes.numel() > 1:
        holes.view(-1)[0], holes.view(-1)[-1] = False, True
    return (holes != usual).to(example.dtype)


def _slot(name: str, tensor: Tensor, rows: int, alone: bool) -> Slot:
    if tensor.dtype is torch.bool or (not rows and _is_mask(tensor, alone)):
        return Slot(name, Role.MASK, tensor)
    if tensor.is_floating_point() or tensor.is_complex():
        return Slot(name, Role.NUMBERS, tensor)
    return Slot(name, Role.INDICES, tensor, rows) if rows else Slot(name, Role.INTEGERS, tensor)


def _is_mask(tensor: Tensor, alone: bool) -> bool:
    """Whether the numbers of an input are 0 and 1, as in a mask.

    A list of integers may be anything, such as timesteps; and zeros, or ones without another input, are what people give for
    an image.
    """
    if tensor.is_complex() or not tensor.numel() or not bool(((tensor == 0) | (tensor == 1)).all()):
        return False
    if not tensor.is_floating_point():
        return tensor.dim() > 1
    return bool((tensor != tensor.flatten()[0]).any()) or (tensor.dim() == 2 and not alone and bool(tensor.all()))


def _links(both: Both) -> tuple[Link, ...]:
    """Find, for each input tensor of the destination, the equal one of the source; axes may be permuted."""
    ours, theirs = (inputs.flat() for inputs in both)
    places = counterparts(both[1], both[0])
    return tuple(
        _permuted(ours, tensor) if place is None else (place, tuple(range(tensor.dim())))
        for place, tensor in zip(places, theirs, strict=True)
    )


def _permuted(ours: Sequence[Tensor], tensor: Tensor) -> Link:
    for i, other in enumerate(ours):
        if other.dim() == tensor.dim() <= 5 and other.numel() == tensor.numel():
            for order in permutations(range(tensor.dim())):
                if other.permute(order).shape == tensor.shape and torch.equal(other.permute(order).to(tensor.dtype), tensor):
                    return i, order
    return None


def common_batch(tensors: Sequence[Tensor]) -> int | None:
    """Return the extent of the first axis of all tensors, if they have one in common."""
    extents = {tensor.shape[0] for tensor in tensors if tensor.dim()}
    return extents.pop() if len(extents) == 1 else None


def _reshaped(example: Tensor, shape: Shape, batch: int | None) -> tuple[int, ...]:
    extents = list(example.shape)
    first = 0 if batch is None else 1
    for axis in range(first, len(extents)):
        extents[axis] = shape.sizes.get(extents[axis], extents[axis])
    if shape.spatial and example.dim() > len(shape.spatial):
        extents[-len(shape.spatial) :] = shape.spatial
    if first and extents and shape.batch is not None:
        extents[0] = shape.batch
    return tuple(extents)


def _with(inputs: Inputs, tensors: Sequence[Tensor]) -> Inputs:
    values = iter(tensors)
    changed = inputs.map(lambda _: next(values))
    return replace(changed, size=size_of(tensors[0])) if tensors else changed


def shapes(sampler: Sampler, limits: Sequence[int], *, sized: bool = False) -> Iterator[tuple[str, tuple[Shape, ...]]]:
    """Yield the runs of an audit: a title, and shapes of which the first that both models accept is used.

    `limits` are numbers that the models hold, such as windows and numbers of positions: lengths beyond them are tried.
    `sized` keeps the size of maps.
    """
    if not sampler.slots:
        return
    main = max((slot.example for slot in sampler.slots), key=lambda tensor: (tensor.dim(), tensor.numel()))
    numbers = main.is_floating_point() or main.is_complex()
    scales = DRAWS.scales if any(slot.role is Role.NUMBERS for slot in sampler.slots) else ()
    is_map = numbers and main.dim() > 3
    edges = [edge for edge in DRAWS.small_maps if is_map and not sized and edge < min(main.shape[2:])]
    small = tuple(Shape(len(DRAWS.scales), spatial=(edge,) * (main.dim() - 2), scales=scales) for edge in edges)
    given = Shape(len(DRAWS.scales), scales=scales), Shape(scales=scales)
    milder = [replace(shape, scales=DRAWS.milder) for shape in (*small, *given)] if scales else []
    yield "values", (*small, *given, *milder)
    if is_map and not sized:
        yield from _maps(main.shape[2:], limits)
    elif not is_map and (not numbers or main.dim() > 2):
        for axis in range(1, main.dim()):
            yield from _lengths(main.shape[axis], limits)
    yield "batch", (Shape(1),)


def _maps(edges: Sequence[int], limits: Sequence[int]) -> Iterator[tuple[str, tuple[Shape, ...]]]:
    """Yield maps of odd sizes, of another multiple of 32, and on the other side of the limits of the models."""
    for factors in DRAWS.factors:
        yield "size", (Shape(2, spatial=tuple(_odd(edge * by) for edge, by in zip(edges, factors, strict=False))),)
    yield "size", (Shape(1, spatial=tuple(32 * (edge // 32 + place + 1) for place, edge in enumerate(edges))),)
    below = sorted(limit for limit in limits if 8 < limit < min(edges))
    beyond = sorted(limit for limit in limits if max(edges) < limit <= DRAWS.longest)
    if below:
        yield "size", tuple(Shape(1, spatial=(edge,) * len(edges)) for edge in (below[0] - 1, below[0] // 32 * 32) if edge)
    if beyond:
        yield "size", tuple(Shape(1, spatial=(edge,) * len(edges)) for edge in (beyond[-1] + 1, beyond[-1] // 32 * 32 + 32))


def _lengths(length: int, limits: Sequence[int]) -> Iterator[tuple[str, tuple[Shape, ...]]]:
    """Yield shorter and longer sequences, and some that go beyond the limits of the models."""
    yield "length", (Shape(2, sizes={length: _shorter(length)}),)
    yield "length", (Shape(2, sizes={length: 2 * length + 3}),)
    longer = {limit + more for limit in limits for more in (0, 3)}
    beyond = sorted((extent for extent in longer if 2 * length < extent <= DRAWS.longest), reverse=True)
    if beyond:
        yield "length", tuple(Shape(1, sizes={length: extent}) for extent in beyond[: DRAWS.limits])


def _shorter(length: int) -> int:
    """Return an odd number at or a little below two thirds of a length.

    >>> [_shorter(length) for length in (2, 5, 12, 64)]
    [1, 3, 7, 41]
    """
    return max(1, (2 * length // 3 - 1) | 1)


def _odd(extent: float) -> int:
    return max(1, round(extent)) | 1
