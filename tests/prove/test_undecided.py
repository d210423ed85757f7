"""Outputs that say nothing about the weights refute no mapping."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.between, self.after = nn.Linear(4, 5), nn.Linear(5, 4), between, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.b(self.between(self.a(x))))


def same(value: Tensor) -> Tensor:
    return value


@pytest.mark.parametrize(
    "draws",
    [
        lambda y: y + torch.rand_like(y),
        lambda y: y + torch.empty_like(y).uniform_(),
        lambda y: F.dropout(y, 0.5, training=True),
    ],
    ids=["rand_like", "uniform_", "dropout"],
)
def test_a_model_that_draws_random_numbers_is_not_refuted(draws: Callable[[Tensor], Tensor]) -> None:
    mapping = fxmap.auto_map(Net(draws, same), Net(draws, same), example_inputs=X)
    assert (mapping.proof.ok, mapping.proof.refuted) == (False, False)
    assert "its forward draws random numbers" in mapping.proof.reason
    dst = Net(draws, same)
    with pytest.warns(fxmap.ProofWarning, match="draws random numbers"):
        fxmap.transfer(Net(draws, same), dst, example_inputs=X)


def test_outputs_that_are_all_zero_refute_nothing() -> None:
    def never(value: Tensor) -> Tensor:
        return value > value.abs().max() + 1

    mapping = fxmap.auto_map(Net(same, never), Net(same, never), example_inputs=X)
    assert (mapping.proof.ok, mapping.proof.refuted) == (False, False)


def test_a_wrong_mapping_of_models_that_draw_nothing_is_refuted() -> None:
    proof = fxmap.verify(nn.Linear(4, 4), nn.Linear(4, 4), {"weight": "transpose(weight)", "bias": "bias"}, X)
    assert proof.refuted
