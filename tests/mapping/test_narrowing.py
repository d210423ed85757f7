"""Numbers that the dtype of a destination cannot hold."""

import re
import warnings

import pytest
import torch
from torch import nn

import fxmap


@pytest.mark.parametrize(
    ("numbers", "dtype", "words"),
    [
        ([1e-9, -1e-9, 1e-9], torch.float16, "w: 3 of 3 values .* 3 become 0"),
        ([1e-9, 5e-5, 0.0], torch.float16, ""),  # less than the rounding of the largest
        ([3e-8, 2e-5, 0.0], torch.float16, "w: 2 of 3 values"),
        ([1e-9, 1.0, 0.0], torch.float16, ""),
        ([1e-9, 1e-9, 1e-9], torch.bfloat16, ""),
        ([0.0, 0.0, 0.0], torch.float16, ""),
        ([5e-4, 5e-4, 5e-4], torch.float8_e4m3fn, "3 become 0"),
    ],
)
def test_numbers_too_small_for_the_dtype_are_said(numbers: list[float], dtype: torch.dtype, words: str) -> None:
    dst = nn.Module()
    dst.register_buffer("w", torch.zeros(3, dtype=dtype))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fxmap.KeyMapping({"w": "w"}).load_into(dst, {"w": torch.tensor(numbers)})
    assert [bool(re.search(words, str(warning.message))) for warning in caught] == [True] * bool(words)
