"""Images that are optimised scale by scale: a pyramid of noise, of learned strength and colour, bounded as pixels are.

In the space of pixels, statistics of activations are badly conditioned. Images are smooth and nearly grey, so that filters
for edges and for differences of colour see variances that are small by orders of magnitude; noise of independent pixels
drives these filters much too hard, and every pixel has to be moved to change that. Here an image is a sum over scales,

    x = bound(up(... up(A3 z3) + A2 z2 ...) + A1 z1) + b,    bound(f) = mean + s tanh((f - mean) / s),    s = 2 std(f),

where z1 is as large as the image, each next z half as large, and each A mixes the channels of one scale. A few numbers (A,
b) change the spectrum and the colours of all images at once. The bound keeps single pixels from widening the range of the
input: images end at black and at white, about two standard deviations from the mean.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

# Of the smallest scale, in pixels.
_SMALLEST = 2


# The strength of a scale, relative to the next coarser one, and of all together: images are smooth.
_DECAY, _STRENGTH = 0.5, 0.5


# The part that channels share at first, and the number of channels up to which they count as colours.
_GREY, _COLOURS = 0.9, 16


# Standard deviations at which images end.
_END = 2.0


_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Pyramid:
    """A batch of images as parameters: call it for the images.

    Args:
        shape: of the batch, n c ...; without axes of space, or with more than three, there is one scale.
        generator: draws the noise.

    >>> pyramid = Pyramid((4, 3, 20, 20), torch.Generator().manual_seed(0))
    >>> pyramid().shape, [tuple(noise.shape[2:]) for noise in pyramid.noise]
    (torch.Size([4, 3, 20, 20]), [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2)])
    """

    def __init__(self, shape: tuple[int, ...], generator: torch.Generator) -> None:
        count, channels, *space = shape
        self._mode = _MODES.get(len(space))
        sizes = [tuple(space)]
        while self._mode is not None and max(sizes[-1]) > _SMALLEST:
            sizes.append(tuple(math.ceil(length / 2) for length in sizes[-1]))
        self.noise = [torch.randn(count, channels, *size, generator=generator).requires_grad_() for size in sizes]
        # From fine to coarse, as the sizes.
        strengths = torch.tensor([_DECAY**-step for step in range(len(sizes))])
        strengths *= _STRENGTH / torch.linalg.vector_norm(strengths)
        self.strengths = [strength.log().requires_grad_() for strength in strengths]
        self.mixtures = [_mixture(channels, self._mode is not None).requires_grad_() for _ in sizes]
        self.offset = torch.zeros(channels).requires_grad_()

    def parameters(self) -> list[Tensor]:
        """Return the tensors to optimise; one learning rate suits them all."""
        return [*self.noise, *self.strengths, *self.mixtures, self.offset]

    def __call__(self) -> Tensor:
        """Return the images, `n c ...`."""
        scales = [
            _mixed(noise, mixture * strength.exp())
            for noise, mixture, strength in zip(self.noise, self.mixtures, self.strengths, strict=True)
        ]
        images = scales.pop()
        for finer in reversed(scales):
            images = functional.interpolate(images, size=finer.shape[2:], mode=str(self._mode)) + finer
        return _bounded(images) + _along_channels(self.offset, images)


def _mixture(channels: int, has_space: bool) -> Tensor:
    """Return how channels are made of noise at first: a matrix, or a factor for each where they are too many for colours."""
    if channels > _COLOURS:
        return torch.ones(channels)
    shared = _GREY if has_space else 0.0
    return (1 - shared) * torch.eye(channels) + shared * torch.full((channels, channels), channels**-0.5)


def _mixed(noise: Tensor, mixture: Tensor) -> Tensor:
    if mixture.dim() == 1:
        return noise * _along_channels(mixture, noise)
    return torch.einsum("nc...,dc->nd...", noise, mixture)


def _bounded(images: Tensor) -> Tensor:
    axes = [axis for axis in range(images.dim()) if axis != 1]
    var, mean = torch.var_mean(images, axes, correction=0, keepdim=True)
    end = _END * var.sqrt()
    return mean + end * torch.tanh((images - mean) / end)


def _along_channels(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (like.dim() - 2))
