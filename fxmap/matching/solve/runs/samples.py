"""Samples: inputs of both models, drawn anew many times, so that every element of a value is a vector over the samples."""

from collections.abc import Callable

import torch
from torch import Tensor

from fxmap.model.inputs import Inputs, as_shared

# Values of an integer input up to which one model was found to accept it, by the place of the tensor and of its column.
Accepts = Callable[[Inputs, Inputs], bool]


class Samples:
    """Draws of the inputs of both models: floats as the example's are spread, integers over all that both models accept.

    With `held`, integers stay as they are: sizes of values may depend on them, as on edges from a node to itself.
    """

    held = False

    def __init__(self, src: Inputs, dst: Inputs, accepts: Accepts, sizes: tuple[int, ...]) -> None:
        """Begin from example inputs; `sizes` are numbers of rows that a table of the models has."""
        self.src, self.dst = src.double(), dst.double()
        self._accepts = accepts
        self._highs = [self._high(place, tensor, sizes) for place, tensor in enumerate(self.src.flat())]

    def draw(self, seed: int) -> tuple[Inputs, Inputs]:
        """Return inputs of both models, the same where they share them."""
        generator = torch.Generator().manual_seed(seed)
        places = iter(range(len(self._highs)))
        ours = self.src.map(lambda tensor: self._drawn(tensor, self._highs[next(places)], generator))
        theirs = self.dst.map(lambda tensor: self._drawn(tensor, None, generator))
        return ours, as_shared(theirs, self.dst, ours, self.src)

    def stacked(self, count: int, seed: int = 1) -> tuple[list[Tensor], list[Tensor]]:
        """Return the flat inputs of both models, each with an axis of `count` samples in front."""
        drawn = [self.draw(seed * 100_003 + index) for index in range(count)]
        ours = [torch.stack(list(tensors)) for tensors in zip(*(one.flat() for one, _ in drawn), strict=True)]
        theirs = [torch.stack(list(tensors)) for tensors in zip(*(other.flat() for _, other in drawn), strict=True)]
        return ours, theirs

    def _drawn(self, tensor: Tensor, high: Tensor | None, generator: torch.Generator) -> Tensor:
        if self.held and not tensor.is_floating_point() and not tensor.is_complex():
            return tensor
        if tensor.is_floating_point():
            low, top = float(tensor.min()), float(tensor.max())
            if low >= 0 and tensor.numel() > 1 and top > low:
                return torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) * (top - low) + low
            spread = float(tensor.std()) if tensor.numel() > 1 else 1.0
            return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) * (spread or 1.0) + tensor.mean()
        if high is not None and not tensor.dtype.is_complex and tensor.dtype is not torch.bool:
            uniform = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            return (uniform * high).floor().to(tensor.dtype)
        if tensor.dtype.is_complex:
            return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        return tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].reshape(tensor.shape)

    def _high(self, place: int, tensor: Tensor, sizes: tuple[int, ...]) -> Tensor | None:
        """Return the number of values that an integer input may have, by its last axis; None where it is only permuted."""
        whole = not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype is not torch.bool
        if not whole or tensor.numel() < 2 or int(tensor.min()) < 0 or int(tensor.max()) < 2:
            return None
        least = int(tensor.max()) + 1
        choices = sorted({least, *(size for size in sizes if size > least)}, reverse=True)
        for size in choices:
            if self._takes(place, torch.full_like(tensor, size - 1)):
                return torch.tensor(size)
        if tensor.dim() > 1 and tensor.shape[-1] <= 32:
            return torch.stack([self._high_of_column(place, tensor, column, choices) for column in range(tensor.shape[-1])])
        return torch.tensor(least)

    def _high_of_column(self, place: int, tensor: Tensor, column: int, choices: list[int]) -> Tensor:
        for size in choices:
            tried = tensor.clone()
            tried[..., column] = size - 1
            if self._takes(place, tried):
                return torch.tensor(size)
        return tensor[..., column].max() + 1

    def _takes(self, place: int, changed: Tensor) -> bool:
        places = iter(range(len(self.src.flat())))
        ours = self.src.map(lambda tensor: changed if next(places) == place else tensor)
        return self._accepts(ours, as_shared(self.dst, self.dst, ours, self.src))
