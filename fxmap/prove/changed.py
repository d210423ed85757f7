"""Changed tensors: other values of a tensor, to see whether a model's outputs depend on it.

Cost: linear in the tensor; finding the members of a list that move something takes O(m log n) runs for m of n.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from fxmap.run.deferred import Deferred
from fxmap.run.drawn import drawn

# A tensor is changed by these multiples of its size: enough to pass a step of rounding, to move an argmax,
# or to bring scores to where a mask fills them with -100. With each stands by how much outputs have to move, relative to
# them: the largest, which brings scores to masks of -1e4, leaves ten digits of sixteen.
CHANGES = ((2.0, 1e-10), (1e3, 1e-10), (1e6, 1e-6))


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
    return {**tensors, **{path: tensors[path] * factor for path in paths}}


def disturbed(tensor: Tensor, by: float = CHANGES[0][0]) -> Tensor:
    """Return a changed tensor: floating-point numbers get noise of `by` times their mean size, integers are permuted."""
    generator = torch.Generator().manual_seed(7)
    if isinstance(tensor, Deferred):
        size = float(tensor.abs().mean())
        return Deferred(drawn("disturbed", tensor.shape, by * (size or 1.0), 7)) - tensor
    if tensor.is_floating_point() or tensor.is_complex():
        numbers = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if not tensor.is_complex() and bool((tensor > 0).all()):
            return (tensor * numbers.exp()).to(tensor.dtype)  # a variance stays positive
        size = float(tensor.abs().mean()) if tensor.numel() else 0.0
        return (by * (size or 1.0) * numbers + (tensor.flip(0) if tensor.dim() else tensor)).to(tensor.dtype)
    order = torch.randperm(tensor.numel(), generator=generator)
    changed = tensor.flatten()[order].reshape(tensor.shape)
    if not torch.equal(changed, tensor):
        return changed
    # All equal, or one: some of them are changed.
    some = (torch.arange(tensor.numel()) % 2 == 0).reshape(tensor.shape)
    return torch.where(some, ~tensor if tensor.dtype is torch.bool else tensor + 1, tensor)
