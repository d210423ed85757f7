"""Recipes: how rows of a tensor are made, so that it need not be in memory.

>>> ones = Recipe((4, 2), torch.float32, lambda start, stop: torch.ones(stop - start, 2))
>>> product(torch.ones(1, 2), transposed(joined((ones, ones.times(3)))))
tensor([[2., 2., 2., 2., 6., 6., 6., 6.]])

Cost: that of making the rows. Memory: one block of them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# So many numbers of a tensor are made at once where an operation runs over blocks: 512 KB of float64, which a processor
# keeps in its cache. Larger ones leave holes in malloc's heap, between which what is kept (activations) lies.
BLOCK = 1 << 16


@dataclass(frozen=True, eq=False)
class Recipe:
    """How rows of a tensor are made.

    Attributes:
        shape, dtype: of the tensor.
        rows: a function of the first row and the one behind the last, along the first axis; of a number, of (0, 1).
        whole: rows cost as much as all of them.
        swapped: the recipe of which this is the transpose.
        parts: the recipes of which this is the join along the first axis.
        step, phase: how many rows are best made at once, from multiples of that on, less the phase.
        scaled: a function as `rows` that returns numbers which need not be copied, and a factor of them.
        identity: the same for two recipes only where they make the same numbers.
        turned: makes the recipe of the transpose, where its rows cost no more than these.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: Callable[[int, int], Tensor]
    whole: bool = False
    swapped: "Recipe | None" = None
    parts: tuple["Recipe", ...] = ()
    step: int = 0
    phase: int = 0
    scaled: Callable[[int, int], tuple[Tensor, float]] | None = None
    identity: object = None
    turned: "Callable[[], Recipe] | None" = None

    def all(self) -> Tensor:
        """Make all numbers."""
        if self.swapped is not None:
            return self.swapped.all().t()
        return self.rows(0, self.shape[0] if self.shape else 1)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of rows that are made at once."""
        start, stop = 0, self.shape[0] if self.shape else 1
        step = stop + self.phase if self.whole else self.step or max(1, BLOCK // max(1, math.prod(self.shape[1:])))
        while start < stop:
            end = min(stop, ((start + self.phase) // step + 1) * step - self.phase)
            yield start, end
            start = end

    def factored(self, start: int, stop: int) -> tuple[Tensor, float]:
        """Return rows and a factor of them."""
        return (self.rows(start, stop), 1.0) if self.scaled is None else self.scaled(start, stop)

    def joined(self) -> tuple["Recipe", ...]:
        """Return the recipes of which this one is the join: itself alone, if it is none."""
        return tuple(inner for part in self.parts for inner in part.joined()) if self.parts else (self,)

    def cut(self, start: int, stop: int) -> "Recipe":
        """Return the recipe of some rows; of a join, that of the part that they lie in."""
        if (start, stop) == (0, self.shape[0]):
            return self
        first = 0
        for part in self.parts:
            if first <= start and stop <= first + part.shape[0]:
                return part.cut(start - first, stop - first)
            first += part.shape[0]
        scaled = self.scaled
        return replace(
            self,
            shape=(stop - start, *self.shape[1:]),
            rows=lambda a, b: self.rows(start + a, start + b),
            parts=(),
            turned=None,
            phase=(self.phase + start) % self.step if self.step else 0,
            scaled=None if scaled is None else lambda a, b: scaled(start + a, start + b),
            identity=None if self.identity is None else (self.identity, start, stop),
        )

    def times(self, factor: float) -> "Recipe":
        """Return the recipe of a multiple."""
        scaled = self.scaled or (lambda a, b: (self.rows(a, b), 1.0))

        def multiple(start: int, stop: int) -> tuple[Tensor, float]:
            found, by = scaled(start, stop)
            return found, by * factor

        return replace(
            self,
            rows=lambda a, b: self.rows(a, b) * factor,
            swapped=None if self.swapped is None else self.swapped.times(factor),
            parts=tuple(part.times(factor) for part in self.parts),
            scaled=multiple,
            turned=None,
            identity=None if self.identity is None else (self.identity, factor),
        )


def joined(parts: Sequence[Recipe]) -> Recipe:
    """Return the recipe of several tensors one after the other, along the first axis."""

    def rows(start: int, stop: int) -> Tensor:
        found, first = [], 0
        for part in parts:
            a, b = max(start - first, 0), min(stop - first, part.shape[0])
            if a < b:
                found.append(part.rows(a, b))
            first += part.shape[0]
        return torch.cat(found) if len(found) != 1 else found[0]

    shape = sum(part.shape[0] for part in parts), *parts[0].shape[1:]
    return Recipe(shape, parts[0].dtype, rows, any(part.whole for part in parts), parts=tuple(parts))


def transposed(recipe: Recipe) -> Recipe:
    """Return the recipe of the transpose of a matrix."""
    if recipe.swapped is not None:
        return recipe.swapped
    if recipe.turned is not None:
        return recipe.turned()
    shape = recipe.shape[1], recipe.shape[0]
    return Recipe(shape, recipe.dtype, lambda a, b: recipe.all()[:, a:b].t(), True, recipe)


def taken(recipe: Recipe, index: Tensor) -> Recipe:
    """Return the recipe of rows by number.

    Raises:
        IndexError: there is no such row.
    """
    count = recipe.shape[0]
    index = torch.where(index < 0, index + count, index)
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= count:
        raise IndexError(f"index {low if low < 0 else high} is out of bounds for {count} rows")
    if bool((index[1:] - index[:-1] == 1).all()):
        return recipe.cut(low, high + 1)
    shape = index.shape[0], *recipe.shape[1:]
    return Recipe(shape, recipe.dtype, lambda a, b: gathered(recipe, index[a:b]), recipe.whole)


def gathered(recipe: Recipe, index: Tensor) -> Tensor:
    """Make rows by number, each block of them once."""
    result = torch.empty((index.shape[0], *recipe.shape[1:]), dtype=recipe.dtype)
    blocks = list(recipe.blocks())
    place = torch.bucketize(index, torch.tensor([start for start, _ in blocks]), right=True) - 1
    for number in sorted(set(place.tolist())):
        inside = place == number
        wanted = index[inside]
        first, last = int(wanted.min()), int(wanted.max()) + 1
        rows, factor = recipe.factored(first, last)
        result[inside] = rows[wanted - first] if factor == 1.0 else rows[wanted - first] * factor
    return result


def product(one: Tensor, recipe: Recipe) -> Tensor:
    """Multiply a matrix by one that has a recipe, block by block.

    Blocks are written to their place at once: kept until the end, each would lie where the numbers of the next one were
    made, and malloc would take new memory for all that follow, up to the size of the whole weight.
    """
    if recipe.swapped is not None:
        made, first = one.new_empty(one.shape[0], recipe.shape[1]), 0
        for part in recipe.swapped.joined():
            for a, b in part.blocks():
                weight, factor = part.factored(a, b)
                torch.mul(one @ weight.t(), factor, out=made[:, first + a : first + b])
            first += part.shape[0]
        return made
    total, first = one.new_zeros(one.shape[0], recipe.shape[1]), 0
    for part in recipe.joined():
        for a, b in part.blocks():
            weight, factor = part.factored(a, b)
            total.addmm_(one[:, first + a : first + b], weight, alpha=factor)
        first += part.shape[0]
    return total


def reduced_by_blocks(recipe: Recipe, reduced: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what a function makes of every block, a number each, in one tensor (see `product` for the reason)."""
    blocks, made = list(recipe.blocks()), torch.empty(0)
    for number, (start, stop) in enumerate(blocks):
        value = reduced(recipe.rows(start, stop))
        made = made if number else value.new_empty(len(blocks))
        made[number] = value
    return made


def product_of(left: Tensor, right: Tensor) -> Recipe:
    """Return the recipe of a product of two matrices that are small themselves."""
    shape = left.shape[0], right.shape[1]
    return Recipe(shape, left.dtype, lambda a, b: left[a:b] @ right, turned=lambda: product_of(right.t(), left.t()))


def table_of(index: Tensor, values: Tensor, count: int, left_out: int) -> Recipe:
    """Return the recipe of a table of `count` rows to which values are added, by the number of the row."""

    def rows(start: int, stop: int) -> Tensor:
        inside = (index >= start) & (index < stop) & (index != left_out)
        made = values.new_zeros(stop - start, values.shape[1])
        return made.index_add_(0, index[inside] - start, values[inside])

    return Recipe((count, values.shape[1]), values.dtype, rows)
