"""Changed tensors: other values of a tensor, to see whether a model's outputs depend on it.

Cost: linear in the tensor; finding the members of a list that move something takes O(m log n) runs for m of n.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

from fxmap.model.tensors import Named
from fxmap.prove.audits.audit import difference
from fxmap.run.deferred import Deferred, absolute_sum
from fxmap.run.drawn import drawn

# A tensor is changed by these multiples of its size: enough to pass a step of rounding, to move an argmax,
# or to bring scores to where a mask fills them with -100. With each stands by how much outputs have to move, relative to
# them: the largest, which brings scores to masks of -1e4, leaves ten digits of sixteen.
CHANGES = ((2.0, 1e-10), (1e3, 1e-10), (1e6, 1e-6))
# Of so few numbers, noise may leave every sign as it is.
_FEW = 8
# How many more values of them are drawn.
_MORE = 12
# From so many numbers on, tensors are multiplied in their own memory.
_LARGE = 1 << 18
# So small a multiple is below every threshold that is not 0.
_TINY = 1e-9


@dataclass(frozen=True)
class Changed:
    """Other values of some tensors, by path.

    `least` is by how much outputs have to move to count. Values are `strange` where the sign, or a size that is not 0, may
    be part of what the tensor means: a variance is never negative. Outputs that are no numbers then say nothing.
    """

    tensors: Mapping[str, Tensor]
    least: float
    strange: bool = False


def changed_values(
    own: Mapping[str, Tensor], paths: Sequence[str], *, odd: bool = True, several: bool = False
) -> Iterator[Changed]:
    """Yield other values of some tensors: noise of several sizes, and, unless they shall not be `odd`, 0 and other signs.

    `several` asks for some more values of tensors of few numbers, which are not whole multiples of each other: what code
    makes of a number may come again and again, such as whether it is even.

    Signs are turned for all of the tensors, and for half of them in as many ways as tell every two apart: in a product of
    two, the signs of both cancel.

    >>> [changed.tensors["t"].item() for changed in changed_values({"t": torch.ones(()).double()}, ["t"])][3:]
    [0.0, 1e-09, -1.0, -1000.0, -1000000.0]
    """
    for by, least in CHANGES:
        yield Changed({path: disturbed(own[path], by, seed=crc32(path.encode())) for path in paths}, least)
    least = CHANGES[0][1]
    drawn_ones = [path for path in paths if own[path].is_floating_point() and not isinstance(own[path], Deferred)]
    if not odd or not drawn_ones:
        return
    for factor in (0.0, _TINY):
        yield Changed({path: own[path] * factor for path in drawn_ones}, least, strange=True)
    few = [path for path in drawn_ones if own[path].numel() < _FEW or one_signed(own[path])]
    for place in range(-1, (len(few) - 1).bit_length()):
        some = [path for index, path in enumerate(few) if place < 0 or index >> place & 1]
        if some:
            yield Changed({path: -own[path] for path in some}, least, strange=True)
    for by, at_least in CHANGES[1:] if few else ():
        yield Changed({path: -by * own[path] for path in few}, at_least, strange=True)
    small = [path for path in drawn_ones if own[path].numel() < _FEW]
    generator = torch.Generator().manual_seed(13)
    for _ in range(_MORE if several and small else 0):
        yield Changed({path: _anew(own[path], generator) for path in small}, least, strange=True)


def is_moved(expected: Named, found: Named, change: Changed) -> bool:
    """Whether a change of tensors has moved outputs; values that are no numbers do not count where the change is strange."""
    if len(expected) != len(found):
        return True
    pairs = [_without_the_same(one, other) for (_, one), (_, other) in zip(expected, found, strict=True)]
    if change.strange and any(_is_finite(one) and not _is_finite(other) for one, other in pairs):
        return False
    return any(difference(one, other, None) > change.least for one, other in pairs)


def _without_the_same(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return two outputs, with 0 where both are the same infinity, or no number."""
    if one.shape != other.shape:
        return one, other
    same = ~torch.isfinite(one) & ((one == other) | (torch.isnan(one) & torch.isnan(other)))
    return one.masked_fill(same, 0), other.masked_fill(same, 0)


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _anew(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Draw numbers of either sign, from a thirtieth to thirty times as large as those of a tensor."""
    sizes = 30.0 ** (2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 1)
    signs = torch.where(torch.rand(tensor.shape, generator=generator) < 0.5, -1.0, 1.0)
    return (sizes * signs * (float(tensor.abs().mean()) or 1.0)).to(tensor.dtype)


def one_signed(tensor: Tensor) -> bool:
    """Whether all numbers are above 0, or all are below."""
    return bool((tensor > 0).all()) or bool((tensor < 0).all())


def by_halves(paths: list[str], moves: Callable[[list[str]], bool]) -> list[str]:
    """Return the members of a list that make a test true: O(m log n) tests for m members of n."""
    if not moves(paths):
        return []
    if len(paths) == 1:
        return paths
    middle = len(paths) // 2
    return [*by_halves(paths[:middle], moves), *by_halves(paths[middle:], moves)]


def noise(tensor: Tensor, generator: torch.Generator) -> Tensor | float:
    """Return normal numbers for a tensor; one for all of it where its own numbers are not in memory."""
    numbers = torch.randn(() if isinstance(tensor, Deferred) else tensor.shape, generator=generator, dtype=torch.float64)
    return numbers if numbers.dim() else float(numbers)


def scaled(tensors: Mapping[str, Tensor], paths: Iterable[str], factor: float) -> Mapping[str, Tensor]:
    """Return tensors of which some are larger by a factor: copies, since the models' code may write to what it is given.

    >>> scaled({"a": torch.ones(2), "b": torch.ones(2)}, ["a"], 4.0)
    {'a': tensor([4., 4.]), 'b': tensor([1., 1.])}
    """
    return {**tensors, **{path: torch.mul(tensors[path], factor) for path in paths}}


@contextmanager
def scaled_in_place(tensors: Mapping[str, Tensor], paths: Iterable[str], factor: float) -> Iterator[Mapping[str, Tensor]]:
    """Let some tensors be larger by a power of two inside a `with` block; large ones in their own memory.

    To fetch memory for copies takes as long as several runs of a model. A power of two rounds nothing, so that the numbers
    are the same ones afterwards. Nothing else may read them meanwhile.

    >>> own = {"a": torch.tensor([0.1, -3.0])}
    >>> with scaled_in_place(own, ["a"], 4.0) as larger:
    ...     print(larger["a"])
    tensor([  0.4000, -12.0000])
    """
    large = [path for path in paths if _is_large(tensors[path])]
    unlike = {id(tensors[path]): tensors[path] for path in large}
    small = scaled(tensors, [path for path in paths if path not in set(large)], factor)
    done: list[Tensor] = []
    try:
        for tensor in unlike.values():
            _multiply(tensor, factor)
            done.append(tensor)
        yield small
    finally:
        for tensor in done:
            _multiply(tensor, 1 / factor)


@torch.no_grad()
def _multiply(tensor: Tensor, factor: float) -> None:
    """Multiply in place; unseen by what forgets products of a weight that is written to, since it will be as before."""
    with torch._C.DisableTorchFunction():
        tensor.mul_(factor)


def _is_large(tensor: Tensor) -> bool:
    """Whether a tensor has memory of its own, and so much that a copy takes long."""
    return type(tensor) is Tensor and tensor.numel() >= _LARGE and tensor.is_contiguous()


def disturbed(tensor: Tensor, by: float = CHANGES[0][0], seed: int = 7) -> Tensor:
    """Return a changed tensor: floating-point numbers get noise of `by` times their mean size, integers are permuted.

    Positive numbers, which may be variances, stay positive: they are multiplied by factors up to that size, and down to its
    inverse.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(tensor, Deferred):
        size = absolute_sum(tensor) / max(tensor.numel(), 1)
        return Deferred(drawn("disturbed", tensor.shape, by * (size or 1.0), 7)) - tensor
    if tensor.is_floating_point() or tensor.is_complex():
        if not tensor.is_complex() and bool((tensor > 0).all()):
            return (tensor * _factors(tensor, by, generator)).to(tensor.dtype)
        numbers = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        size = float(tensor.abs().mean()) if tensor.numel() else 0.0
        return (by * (size or 1.0) * numbers + (tensor.flip(0) if tensor.dim() else tensor)).to(tensor.dtype)
    order = torch.randperm(tensor.numel(), generator=generator)
    changed = tensor.flatten()[order].reshape(tensor.shape)
    if not torch.equal(changed, tensor):
        return changed
    # All equal, or one: some of them are changed.
    some = (torch.arange(tensor.numel()) % 2 == 0).reshape(tensor.shape)
    return torch.where(some, ~tensor if tensor.dtype is torch.bool else tensor + 1, tensor)


def _factors(tensor: Tensor, by: float, generator: torch.Generator) -> Tensor:
    """Draw a factor for each number; the first one is the largest, so that one number alone grows."""
    powers = 2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 1
    powers.view(-1)[:1] = 1
    return by**powers
