"""Products of few rows are torch's own, in every shape that a model may ask for."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fxmap.model.few_rows import can_add_rows, can_join_positions, joined_positions, linear
from fxmap.model.kernels import DoubleKernels


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("shape", [(2, 5, 128), (3, 128), (1, 7, 1, 128)])
def test_rows_that_are_added_change_no_result(shape: tuple[int, ...]) -> None:
    x, w, b = _normal(*shape), _normal(512, 128), _normal(512)
    assert can_add_rows(x, w, b)
    found = linear(x, w, b)
    assert found.is_contiguous()
    assert torch.allclose(found, F.linear(x, w, b), atol=1e-12)


def test_a_whole_block_a_single_row_and_what_is_no_float64_are_left_to_torch() -> None:
    w = _normal(512, 128)
    assert not any(can_add_rows(_normal(rows, 128), w) for rows in (1, 4, 8, 257))
    assert not can_add_rows(_normal(3, 128).float(), w.float())
    assert not can_add_rows(_normal(3, 128), w[:8])
    with DoubleKernels(), pytest.raises(RuntimeError, match="shape"):
        F.linear(_normal(3, 64), w)


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((2, 64, 4, 4), (128, 64, 3, 3), {"padding": 1}),
        ((3, 64, 9, 3), (128, 64, 3, 2), {"stride": (2, 1), "padding": (0, 1), "dilation": (2, 1)}),
        ((1, 256, 3, 2), (256, 256, 1, 1), {}),
    ],
)
def test_positions_of_all_samples_in_one_product_are_a_convolution(x: Any, w: Any, options: dict[str, Any]) -> None:
    x, w, b = _normal(*x), _normal(*w), _normal(w[0])
    expected = F.conv2d(x, w, b, **options)
    assert can_join_positions(x, w, b, **options)
    found = joined_positions(x, w, b, **options)
    assert found.is_contiguous()
    assert torch.allclose(found, expected, atol=1e-11)
    with DoubleKernels():
        assert torch.equal(F.conv2d(x, w, b, **options), found)


def test_convolutions_of_another_kind_are_left_to_torch() -> None:
    x, w = _normal(2, 64, 4, 4), _normal(128, 64, 3, 3)
    assert not can_join_positions(x, w, padding="same")
    assert not can_join_positions(x, _normal(128, 32, 3, 3), groups=2, padding=1)
    assert not can_join_positions(x.to(memory_format=torch.channels_last), w, padding=1)
    assert not can_join_positions(_normal(2, 64, 32, 32), w, padding=1)
    assert not can_join_positions(x[:1, :, :3, :3], w)
