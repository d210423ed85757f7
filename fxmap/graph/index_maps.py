"""Index maps: for each element of a computed tensor, the number of the stored element that it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

ZERO = -1


@dataclass(frozen=True, slots=True)
class Term:
    """Stored elements by number, ZERO where there is none, times a factor."""

    numbers: Tensor
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Composition:
    """An operand as a sum of terms and a constant."""

    terms: tuple[Term, ...]
    shift: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """The operand's shape."""
        return tuple(self.terms[0].numbers.shape)

    @property
    def plain(self) -> bool:
        """Whether the operand only rearranges stored elements: one term, no factor, no shift."""
        return len(self.terms) == 1 and self.terms[0].factor == 1.0 and self.shift == 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the elements of a tensor begin in a numbering, and its shape."""

    begin: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    def holds(self, numbers: Tensor) -> Tensor:
        """Return a mask of the element numbers that lie in this tensor."""
        return (numbers >= self.begin) & (numbers < self.begin + self.size)


class Numbering:
    """The elements of tensors, numbered one tensor after the other."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.places: dict[str, Place] = {}
        begin = 0
        for path, shape in shapes.items():
            self.places[path] = Place(begin, shape)
            begin += prod(shape)
        self.shapes = dict(shapes)
        self._paths = list(self.places)
        self._begins = torch.tensor([place.begin for place in self.places.values()])

    def numbers(self, path: str) -> Tensor:
        """Return the numbers of a tensor's elements, in its shape."""
        place = self.places[path]
        return torch.arange(place.begin, place.begin + place.size).view(place.shape)

    def owners(self, numbers: Tensor) -> Tensor:
        """Return the index of the tensor that each element belongs to; ZERO stays ZERO."""
        found = torch.searchsorted(self._begins, numbers.contiguous(), right=True) - 1
        # Empty tensors begin where the next one does; the last of them is found, which is the one with elements.
        return torch.where(numbers >= 0, found, ZERO)

    def path(self, owner: int) -> str:
        """Return the path of a tensor by index."""
        return self._paths[owner]

    def sole(self, numbers: Tensor) -> str | None:
        """Return the one tensor that all elements belong to, or None."""
        owners = distinct(self.owners(numbers))
        return self._paths[owners[0]] if len(owners) == 1 and owners[0] != ZERO else None

    def value(self, composition: Composition, values: Mapping[str, Tensor]) -> Tensor:
        """Put an operand together from the values of the stored tensors."""
        like = values[self.paths(composition)[0]]
        total = torch.full(composition.shape, composition.shift, dtype=like.dtype)
        for term in composition.terms:
            for owner in distinct(self.owners(term.numbers)):
                if owner != ZERO:
                    place = self.places[self._paths[owner]]
                    mine = place.holds(term.numbers)
                    stored = values[self._paths[owner]].detach().flatten()
                    total[mine] += stored[term.numbers[mine] - place.begin] * term.factor
        return total

    def write(self, composition: Composition, value: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the stored tensors with an operand's elements written back into their places: the inverse of `value`.

        Nothing is returned for a sum of terms, from which the terms cannot be recovered.
        """
        if len(composition.terms) != 1:
            return {}
        (term,) = composition.terms
        elements = ((value.expand(composition.shape) - composition.shift) / term.factor).flatten()
        numbers = term.numbers.flatten()
        result = {}
        for path in self.paths(composition):
            place = self.places[path]
            mine = place.holds(numbers)
            stored = values[path].detach().flatten().clone()
            stored[numbers[mine] - place.begin] = elements[mine].to(stored.dtype)
            result[path] = stored.view(place.shape)
        return result

    def paths(self, composition: Composition) -> tuple[str, ...]:
        """Return the tensors that a composition reads."""
        owners = [owner for term in composition.terms for owner in distinct(self.owners(term.numbers))]
        return tuple(self._paths[owner] for owner in dict.fromkeys(owners) if owner != ZERO)


def distinct(numbers: Tensor) -> list[int]:
    """Return the different numbers of a tensor, in ascending order."""
    found: Any = torch.unique(numbers)
    return list(found.tolist())
