"""Images as sums over scales."""

import pytest
import torch

from fxmap.forms.pyramid import Pyramid

SHAPES = [
    (4, 3),
    (4, 3, 17),
    (4, 3, 20, 30),
    (4, 1, 1, 1),
    (4, 2, 5, 6, 7),
    (4, 2, 3, 4, 5, 6),
    (4, 40, 12, 12),
    (2, 3, 1, 50),
]


def pyramid(*shape: int, seed: int = 0) -> Pyramid:
    return Pyramid(shape, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_every_rank_and_their_gradients(shape: tuple[int, ...]) -> None:
    made = pyramid(*shape)
    images = made()
    assert images.shape == shape
    assert images.isfinite().all()
    images.square().sum().backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in made.parameters())


def test_images_end_at_two_standard_deviations_even_with_an_outlier() -> None:
    made = pyramid(8, 3, 32, 32)
    with torch.no_grad():
        made.noise[0][0, 0, 5, 5] = 100
        images = made()
    far = (images - images.mean((0, 2, 3), keepdim=True)).abs().amax((0, 2, 3)) / images.std((0, 2, 3))
    assert (far < 2.7).all()


def test_images_begin_smooth_and_nearly_grey() -> None:
    images = pyramid(16, 3, 64, 64)()
    steps = (images[..., 1:] - images[..., :-1]).std() / images.std()
    colours = (images - images.mean(1, keepdim=True)).std() / images.std()
    assert steps < 0.3  # white noise: 1.41
    assert colours < 0.3  # white noise: 0.82


def test_the_noise_comes_from_the_generator() -> None:
    state = torch.get_rng_state()
    assert torch.equal(pyramid(2, 3, 9, 9)(), pyramid(2, 3, 9, 9)())
    assert not torch.equal(pyramid(2, 3, 9, 9)(), pyramid(2, 3, 9, 9, seed=1)())
    assert torch.equal(torch.get_rng_state(), state)
