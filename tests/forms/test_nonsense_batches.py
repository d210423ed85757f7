"""Calibration on batches that tell nothing, or nonsense: refused with the batch, and nothing is written."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import fxmap
from fxmap.testing.recipes import layers as recipes
from fxmap.testing.recipes.forms import Form

pytestmark = pytest.mark.filterwarnings("ignore")


def empty(good: torch.Tensor) -> torch.Tensor:
    return torch.zeros(0, *good.shape[1:])


def with_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda good: good.index_fill(0, torch.tensor([0]), value)


def times(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda good: good * factor


def of_each(change: Callable[[torch.Tensor], torch.Tensor], batch: Any) -> tuple[Any, ...]:
    return tuple(change(part) if part.is_floating_point() else part for part in batch)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (empty, "it is empty"),
        (with_value(float("nan")), r"\d+ of \d+ values are NaN"),
        (with_value(float("inf")), r"\d+ of \d+ values are NaN"),
    ],
)
def test_a_batch_that_tells_nothing_is_refused(change: Any, words: str) -> None:
    data = recipes.batches(2)
    src = recipes.randomised(1)
    dst = recipes.build_form(Form.INT8_CHANNEL, recipes.randomised(2).state_dict(), data)
    before = {key: str(value) for key, value in dst.state_dict().items()}
    with pytest.raises(fxmap.QuantizationError, match=f"calibration batch 1: {words}"):
        fxmap.transfer(src, dst, calibration=[data[0], of_each(change, data[1])], example_inputs=data[0], verify=False)
    assert before == {key: str(value) for key, value in dst.state_dict().items()}


def test_no_batches_at_all_are_refused() -> None:
    data = recipes.batches(2)
    dst = recipes.build_form(Form.INT8_CHANNEL, recipes.randomised(2).state_dict(), data)
    with pytest.raises(fxmap.QuantizationError, match="no batches"):
        fxmap.transfer(recipes.randomised(1), dst, calibration=[], example_inputs=data[0], verify=False)


def test_activations_that_overflow_are_refused() -> None:
    data = recipes.batches(2)
    dst = recipes.build_form(Form.INT8_CHANNEL, recipes.randomised(2).state_dict(), data)
    with pytest.raises((fxmap.QuantizationError, fxmap.MappingError)):
        fxmap.transfer(
            recipes.randomised(1), dst, calibration=[of_each(times(3e38), data[0])], example_inputs=data[0], verify=False
        )
