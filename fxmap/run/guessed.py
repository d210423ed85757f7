"""Guessed inputs: tensors that a model without a graph may accept, from its configuration, first layers and signature.

Nothing is run here. Whoever asks runs the models on one guess after another, within a budget, and takes the first that all
of them accept: a wrong guess costs an exception.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.model.inputs import Inputs, size_of
from fxmap.model.restoring import let_through

_Shape = tuple[int, ...]
# What further arguments of one shape of the first one are tried at the most.
_TRIES = 12


def guess_inputs(*models: nn.Module) -> Iterator[Inputs]:
    """Yield inputs that all of the models may accept, likelier ones first.

    The first argument has the shape that a configuration declares or the first layer reads. Each further argument that a
    model requires is one number for each sample (a timestep, a length, a label), ids, a mask, another tensor like the first,
    or pairs of rows (edges): its name says which is tried first, and all are tried.

    >>> class Timed(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv = nn.Conv2d(3, 4, 3)
    ...     def forward(self, sample, timestep):
    ...         return self.conv(sample) * timestep[:, None, None, None]
    >>> [tuple(value.shape) for value in next(guess_inputs(Timed())).args]
    [(2, 3, 128, 128), (2,)]
    """
    shapes: dict[_Shape, int | None] = {}
    for model in models:
        shapes |= dict.fromkeys(_configured(model))
        shapes |= _first_layer(model)
    further = _further(*models)
    for shape, high in shapes.items():
        generator = torch.Generator().manual_seed(0)
        # Numbers for each sample tell something with two samples alone.
        first = draw((max(2, shape[0]), *shape[1:]) if further else shape, high, generator)
        choices = [[guess(first, generator) for guess in _by_name(name)] for name in further]
        for rest in islice(product(*choices), _TRIES):
            yield Inputs((first, *rest), {}, True, size_of(first))


def draw(shape: _Shape, high: int | None, generator: torch.Generator) -> Tensor:
    """Draw normal numbers, or integers below `high`."""
    if high is None:
        return torch.randn(shape, generator=generator, dtype=torch.float32)
    return torch.randint(0, high, shape, generator=generator)


def _configured(model: nn.Module) -> Iterator[_Shape]:
    """Yield the input shapes of images that a model or its configuration declares."""
    for holder in (model, _told(model, "config"), _told(model, "patch_embed")):
        size = next(
            (size for name in ("image_size", "img_size") if isinstance(size := _told(holder, name), int | tuple | list)), 0
        )
        if isinstance(size, int):
            size = (size, size)
        channels = _told(holder, "num_channels")
        shape = 1, channels if isinstance(channels, int) and channels > 0 else 3, *size
        if len(shape) == 4 and all(isinstance(part, int) and part > 0 for part in size) and math.prod(shape) <= _MOST:
            yield shape


# An image that a configuration declares has at most so many numbers.
_MOST = 2**26


def _told(holder: object, name: str) -> Any:
    """Return an attribute; None where there is none, or where the user's code raises instead."""
    try:
        return getattr(holder, name, None)
    except Exception as error:
        let_through(error)
        return None


def _first_layer(model: nn.Module) -> dict[_Shape, int | None]:
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            dims = len(module.kernel_size)
            # A volume of 128 has as many numbers as an image of 1448.
            sizes = (32, 16, 64, 24, 48) if dims > 2 else (128, 224, 64, 32, 256, 384)
            return {(1, module.in_channels, *[size] * dims): None for size in sizes}
        if isinstance(module, nn.Embedding):
            return {(2, 12): module.num_embeddings}
        if isinstance(module, nn.Linear):
            return {(2, 12, module.in_features): None, (2, module.in_features): None}
    return {}


def _further(*models: nn.Module) -> list[str]:
    """Return the names of the arguments behind the first that a model requires, if all of the models take as many."""
    signatures = [_positional(model) for model in models]
    longest = max(([name for name, needed in one if needed] for one in signatures), key=len, default=[])
    return longest[1:] if all(len(one) >= len(longest) for one in signatures) else []


def _positional(model: nn.Module) -> list[tuple[str, bool]]:
    """Return the names of the positional arguments of forward, each with whether it has no default."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # code without a signature
        return []
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [(one.name, one.default is inspect.Parameter.empty) for one in parameters if one.kind in kinds]


_Guess = Callable[[Tensor, torch.Generator], Tensor]


def _numbers(first: Tensor, generator: torch.Generator) -> Tensor:
    """Return one whole number for each sample, which may be a length: that of the first tensor, and a smaller one."""
    length = first.shape[-1] if first.ndim != 3 else first.shape[1]
    return torch.linspace(length, max(1, length - 3), first.shape[0]).long()


def _ids(first: Tensor, generator: torch.Generator) -> Tensor:
    """Draw ids for each sample, small ones, since the table that they index is not known."""
    return torch.randint(0, 2, (first.shape[0], 12), generator=generator)


def _mask(first: Tensor, generator: torch.Generator) -> Tensor:
    """Return a mask over the positions of each sample, without the last one of the second."""
    length = first.shape[1] if first.ndim > 1 else first.shape[0]
    mask = torch.ones(first.shape[0], length, dtype=torch.bool)
    mask[1:, -1] = False
    return mask


def _alike(first: Tensor, generator: torch.Generator) -> Tensor:
    if first.is_floating_point():
        return torch.randn(first.shape, generator=generator, dtype=first.dtype)
    return first.flatten()[torch.randperm(first.numel(), generator=generator)].reshape(first.shape)


def _pairs(first: Tensor, generator: torch.Generator) -> Tensor:
    """Return pairs of rows, `2 edges`: a ring, and as many that skip two."""
    rows = first.shape[-2] if first.ndim > 1 else first.shape[0]
    ring = torch.arange(rows)
    return torch.stack([torch.cat([ring, (ring + 1) % rows]), torch.cat([(ring + 1) % rows, (ring + 3) % rows])])


# Parts of an argument's name, in lower case, with what it likely is; the others are tried behind it.
_WORDS: tuple[tuple[tuple[str, ...], _Guess], ...] = (
    (("edge",), _pairs),
    (("mask",), _mask),
    (("id", "token", "text"), _ids),
    (("time", "step", "len", "label", "class", "noise", "sigma"), _numbers),
)
_GUESSES: tuple[_Guess, ...] = (_numbers, _alike, _ids, _mask, _pairs)


def _by_name(name: str) -> list[_Guess]:
    likely: list[_Guess] = [guess for words, guess in _WORDS if any(word in name.lower() for word in words)]
    return list(dict.fromkeys([*likely, *_GUESSES]))
