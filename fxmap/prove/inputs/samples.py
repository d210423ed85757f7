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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from fxmap.model.inputs import Inputs, counterparts, names_of, permuted, size_of
from fxmap.prove.inputs.shapes import Shape, batch_of, largest

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
class Draws:
    """The constants of the random draws."""

    # The share of a sparse sample that is 0, and of a mask that is a hole.
    sparse: float = 0.7
    holes: float = 0.35
    # Integers without a table are timesteps, lengths, bins or branches: the largest that both models accept, up to these.
    integers: tuple[int, ...] = (1000, 100, 30, 9, 4, 3, 2)


DRAWS = Draws()
# What is added to a seed with which an example was drawn.
_ANOTHER = 2**20
FALLING = -1


@dataclass(frozen=True)
class Sampler:
    """Draws the same inputs for both models, for each in its own order and layout.

    `largest` is that of integers that have no table, 0 for the largest of the example: lengths must fit, timesteps need not;
    `FALLING` for that, and lengths in falling order.
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

    def extents(self) -> dict[int, tuple[int, ...]]:
        """Return the extents of the example's inputs, by place, without masks; with more than one sample in each batch."""
        several = batch_of([slot.example for slot in self.slots]) is not None
        shapes = {place: tuple(slot.example.shape) for place, slot in enumerate(self.slots) if slot.role is not Role.MASK}
        return {place: (2, *shape[1:]) if several and shape else shape for place, shape in shapes.items()}

    def draw(self, shape: Shape, seed: int) -> Both:
        """Draw new values for every input of both models, in other shapes."""
        return self.both_of(self.values(shape, seed))

    def values(self, shape: Shape, seed: int) -> list[Tensor]:
        """Draw new values for every input of the source, in other shapes; an example may be drawn with the same seed."""
        found = self._values(shape, seed)
        same = bool(found) and all(torch.equal(a, slot.example.to(a)) for a, slot in zip(found, self.slots, strict=True))
        return self._values(shape, seed + _ANOTHER) if same else found

    def _values(self, shape: Shape, seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        examples = [slot.example for slot in self.slots]
        extents = [_reshaped(place, examples, shape) for place in range(len(examples))]
        return [self._draw(slot, its, shape, generator) for slot, its in zip(self.slots, extents, strict=True)]

    def both_of(self, drawn: Sequence[Tensor]) -> Both:
        """Return the inputs of both models with these values of the source's."""
        theirs = list(self.both[1].flat())
        for place, link in enumerate(self.links):
            if link is not None:
                theirs[place] = drawn[link[0]].permute(link[1]).to(theirs[place].dtype)
        return _with(self.both[0], drawn), _with(self.both[1], theirs)

    def _draw(self, slot: Slot, extents: tuple[int, ...], shape: Shape, generator: torch.Generator) -> Tensor:
        example = slot.example
        if slot.role is Role.MASK:
            return _mask(example, extents, generator, shape.padded)
        if slot.role is Role.INDICES:
            return torch.randint(0, slot.rows, extents, generator=generator).to(example.dtype)
        if slot.role is Role.INTEGERS:
            return self._integers(example, extents, shape, generator).to(example.dtype)
        values = torch.randn(extents, generator=generator, dtype=torch.float64)
        if example.is_complex():
            values = torch.complex(values, torch.randn(extents, generator=generator, dtype=torch.float64))
        elif shape.form:
            values = values.sigmoid() if shape.form == "unit" else -values.abs()
        if shape.scales and values.dim():
            values = _scaled(values, shape.scales, generator)
        return values.to(example.dtype)

    def _integers(self, example: Tensor, extents: tuple[int, ...], shape: Shape, generator: torch.Generator) -> Tensor:
        top = int(example.max()) if example.numel() else 0
        own, counts = self.largest <= 0, example.dim() > 0 and self._counts(top)
        if own and example.dim() == 1 and counts:
            found = _lengths(shape.sizes.get(top, top), extents, generator)
            return found.sort(descending=True)[0] if self.largest == FALLING else found
        low = int(own and example.numel() > 0 and int(example.min()) > 0)
        high = max(1, top) if own else max(self.largest, 2 * top * (self.largest == DRAWS.integers[0]))
        found = torch.randint(low, high + 1, extents, generator=generator)
        if own or not counts:
            return found
        # What may be a length is one at every other place: numbers far beyond are all the same to code that counts.
        even = torch.arange(found.numel()).reshape(extents) % 2 == 0
        return torch.where(even, 1 + found % max(shape.sizes.get(top, top), 1), found)

    def _counts(self, top: int) -> bool:
        """Whether a number is an extent of another input: then it is a length."""
        return any(top in slot.example.shape[1:] for slot in self.slots)


def _lengths(longest: int, extents: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw lengths, of which one is the longest: code makes its mask as long as that."""
    drawn = torch.randint(1, longest + 1, extents, generator=generator)
    if drawn.numel() > 1:
        # Not in falling order, which code may ask for.
        drawn[0] = drawn[0].clamp(max=max(longest - 1, 1))
    drawn[-1:] = longest
    return drawn


def _scaled(values: Tensor, scales: Sequence[float], generator: torch.Generator) -> Tensor:
    """Give each sample a scale, and some of a batch a form of their own: sparse, of one sign, from 0 to 1, whole numbers."""
    keep = torch.rand(values.shape, generator=generator) > DRAWS.sparse
    for index in range(values.shape[0]):
        sample = values[index] * scales[index % len(scales)]
        if index % 4 == 1 and values.dim() > 1:
            sample = sample * keep[index]
        elif index in _FORMS and not values.is_complex():
            sample = _FORMS[index](sample)
        values[index] = sample
    return values


_FORMS: dict[int, Callable[[Tensor], Tensor]] = {
    2: torch.abs,
    4: torch.sigmoid,
    6: lambda x: -x.abs(),
    7: torch.round,
}


def _mask(example: Tensor, shape: tuple[int, ...], generator: torch.Generator, padded: bool) -> Tensor:
    """Draw a mask with holes.

    The first position of every row keeps the usual value, so that no row is masked out; with padding, the last one of the
    second row, which begins with holes, and the third row has none.
    """
    usual = bool(example.double().mean() >= 0.5) if example.numel() else True
    holes = torch.rand(shape, generator=generator) < DRAWS.holes
    if len(shape) > 1 and shape[-1] > 1 and holes.numel():
        holes[..., 0] = False
        # A hole for certain, and another row without one at the same place.
        rows = holes.view(-1, shape[-1])
        rows[0, -1] = True
        if rows.shape[0] > 1:
            rows[-1, -1] = False
        if padded and rows.shape[0] > 2:
            middle = (shape[-1] + 1) // 2
            rows[1] = torch.arange(shape[-1]) < middle
            rows[2] = False
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
        permuted(ours, tensor) if place is None else (place, tuple(range(tensor.dim())))
        for place, tensor in zip(places, theirs, strict=True)
    )


def common_batch(tensors: Sequence[Tensor]) -> int | None:
    """Return the extent of the first axis of all tensors, if they have one in common."""
    extents = {tensor.shape[0] for tensor in tensors if tensor.dim()}
    return extents.pop() if len(extents) == 1 else None


def _reshaped(place: int, examples: Sequence[Tensor], shape: Shape) -> tuple[int, ...]:
    example, edges = examples[place], len(shape.spatial)
    extents = list(example.shape)
    first = int(bool(extents) and extents[0] == batch_of(examples))
    for axis in range(first, len(extents)):
        extents[axis] = shape.axes.get((place, axis), shape.sizes.get(extents[axis], extents[axis]))
    if edges and (example.dim() > edges + 1 or example.shape[-edges:] == largest(examples).shape[-edges:]):
        extents[-edges:] = shape.spatial
    if first and shape.batch is not None:
        extents[0] = shape.batch
    return tuple(extents)


def _with(inputs: Inputs, tensors: Sequence[Tensor]) -> Inputs:
    values = iter(tensors)
    changed = inputs.map(lambda _: next(values))
    return replace(changed, size=size_of(tensors[0])) if tensors else changed


def telling(samples: Sequence[Both], *, thrifty: bool) -> list[Both]:
    """Return the samples on which changed tensors are tried: the first, the largest, and the one of the largest samples.

    With a sequence of one step, what joins one step to the next moves nothing. Where a run takes long (`thrifty`), they
    are the smallest one and the one of the largest samples.
    """
    if thrifty and samples:
        found = [min(samples, key=lambda both: (_least(both) < 3, _size(both))), max(samples, key=_size_of_one)]
    else:
        found = [*samples[:1], *(max(samples, key=key) for key in (_size, _size_of_one) if samples)]
    return list({id(both): both for both in found}.values())


def _size(both: Both) -> int:
    return sum(value.numel() for value in both[0].flat())


def _least(both: Both) -> int:
    return min((extent for value in both[0].flat() for extent in value.shape[1:]), default=0)


def _size_of_one(both: Both) -> float:
    return _size(both) / (common_batch(both[0].flat()) or 1)
