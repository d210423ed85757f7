"""Random numbers that need not be kept: any of a key's numbers can be drawn again, alone, and are the same ones.

Idea: a counter-based generator. The numbers of a key come in blocks; a hash of the key, the number of the block and the
number of the run says where in a pool of normal numbers the block begins, and by which factor near 1 it is scaled. Drawing
costs one multiplication a number, some twenty times less than a normal number does: weights that are dropped after use are
drawn as often as they are read. Two keys share a window with a chance of one in the size of the pool for every block;
tensors of less than a block are drawn by a generator of their own instead.

>>> one = drawn("layers.0.weight", (3000, 400), 0.1, seed=0)
>>> torch.equal(one.rows(0, 3000)[1000:1010], one.rows(1000, 1010)), round(float(one.all().std()), 2)
(True, 0.1)
>>> torch.equal(one.rows(0, 10), drawn("layers.1.weight", (3000, 400), 0.1, seed=0).rows(0, 10))
False

Cost: one multiplication for every number; 32 MB for the pool, in two dtypes.
Source: counter-based generators, Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011,
doi:10.1145/2063384.2063405; bits are mixed as in Steele, Lea and Flood, SplitMix, 2014, doi:10.1145/2660193.2660195.
"""

import math
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b

import torch
from torch import Tensor

from fxmap.run.recipe import Recipe

# Numbers in the pool, and in a block of a key.
_POOL, _BLOCK = 1 << 21, 1 << 19
# A tensor of fewer numbers is drawn by itself.
SMALL = _BLOCK
_MASK = (1 << 64) - 1


def drawn(key: str, shape: Sequence[int], scale: float, seed: int, dtype: torch.dtype = torch.float64) -> Recipe:
    """Return the recipe of normal numbers of a standard deviation, for a key and the number of a run."""
    numbers = _Numbers(_number(key, seed), tuple(shape), scale)

    from_pool = dtype in (torch.float64, torch.float32)

    def rows(start: int, stop: int) -> Tensor:
        return numbers.rows(start, stop, dtype if from_pool else torch.float32).to(dtype)

    def window(start: int, stop: int) -> tuple[Tensor, float]:
        return numbers.window(start, stop, dtype)

    # Windows of the pool take no memory; what is cast does.
    step, scaled = (numbers.step, window) if from_pool else (max(1, numbers.step // 8), None)
    return Recipe(tuple(shape), dtype, rows, step=step, scaled=scaled, identity=(key, seed, scale, dtype))


def generator_of(key: str, seed: int) -> torch.Generator:
    """Return a generator of a key's own, for a tensor that is drawn at once."""
    return torch.Generator().manual_seed(_number(key, seed) >> 1)


def _number(key: str, seed: int) -> int:
    return int.from_bytes(blake2b(f"{seed}:{key}".encode(), digest_size=8).digest(), "little")


class _Numbers:
    """The numbers of one key, in blocks of `step` rows."""

    def __init__(self, base: int, shape: tuple[int, ...], scale: float) -> None:
        self.base, self.inner, self.scale = base, shape[1:], scale
        self.row = math.prod(self.inner)
        self.step = max(1, _BLOCK // max(1, self.row))

    def window(self, start: int, stop: int, dtype: torch.dtype) -> tuple[Tensor, float]:
        """Return rows that lie in one block: a view of the pool of a dtype, and the factor of its numbers."""
        block, first = divmod(start, self.step)
        if stop > (block + 1) * self.step or self.row > _BLOCK:
            return self.rows(start, stop, dtype), 1.0
        place, factor = self._place(block)
        place += first * self.row
        found = _pool(dtype)[place : place + (stop - start) * self.row]
        return found.view(stop - start, *self.inner), factor

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Draw rows in a dtype of the pool."""
        made = torch.empty((stop - start) * self.row, dtype=dtype)
        size, first, last = self.step * self.row, start * self.row, stop * self.row
        parts = -(-size // _BLOCK)  # rows that are larger than a block have several
        size = -(-size // parts)
        for block in range(first // size, -(-last // size)):
            a, b = max(first, block * size), min(last, (block + 1) * size)
            place, factor = self._place(block)
            place += a - block * size
            torch.mul(_pool(dtype)[place : place + b - a], factor, out=made[a - first : b - first])
        return made.view(stop - start, *self.inner)

    def _place(self, block: int) -> tuple[int, float]:
        """Return where a block begins in the pool, and its factor."""
        number = _mixed(self.base + block)
        return number % _POOL, self.scale * (0.8 + 0.4 * (number >> 40) / (1 << 24))


def _mixed(number: int) -> int:
    """Return a number of 64 bits in which every bit depends on every bit of another one."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


@cache
def _pool(dtype: torch.dtype) -> Tensor:
    """Return the pool in a dtype that holds its numbers, which are those of float32."""
    generator = torch.Generator().manual_seed(20_261)
    return torch.randn(_POOL + _BLOCK, generator=generator, dtype=torch.float32).to(dtype)
