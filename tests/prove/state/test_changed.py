"""Other values of tensors: a key is inert only if none of them moves an output."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap import Status
from fxmap.prove.state.changed import Changed, changed_values, disturbed, is_moved


class Scaled(nn.Module):
    """A layer, and a number that a function brings in."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.h, self.t, self.function = nn.Linear(8, 8), nn.Linear(8, 4), nn.Parameter(torch.ones(1)), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.a(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, y: m.h(F.normalize(y * m.t, dim=-1)),
        lambda m, y: (m.h(y) * m.t).argmax(-1),
        lambda m, y: y.gather(-1, (y * m.t).topk(3, -1)[1]),
        lambda m, y: m.h(y + F.relu(m.t - 100)),
        lambda m, y: m.h(F.normalize(y * m.t.exp(), dim=-1)),
        lambda m, y: m.h(y) * (1 - 2 * ((0.3 * m.t).abs().floor() % 2)),
        lambda m, y: m.h(F.layer_norm(y + m.t, (8,)) if len(y) > 1 else y + m.t),
        lambda m, y: m.h(F.layer_norm(y + m.t, (8,)) if len(y) < 39 else y + m.t),
    ],
    ids=[
        *("sign before a norm", "sign before an argmax", "sign before a topk", "a far relu", "a tiny factor before eps"),
        *("even or odd", "one sample", "a large batch"),
    ],
)
def test_a_number_whose_sign_or_size_alone_matters_is_not_inert(function: Callable[[Any, Tensor], Tensor]) -> None:
    mapping = fxmap.auto_map(Scaled(function).eval(), Scaled(function).eval(), example_inputs=torch.randn(16, 8))
    assert mapping.proof.ok, mapping.proof
    assert mapping.status("t") is Status.PROVEN


def test_a_bias_of_keys_and_a_size_that_a_norm_takes_away_stay_inert() -> None:
    def size(m: Any, y: Tensor) -> Tensor:
        found: Tensor = m.h(y / y.std(-1, keepdim=True) + 0 * m.t)
        return found

    mapping = fxmap.auto_map(Scaled(size).eval(), Scaled(size).eval(), example_inputs=torch.randn(2, 8))
    assert mapping.status("t") is Status.INERT


def test_two_factors_whose_signs_cancel_are_told_apart() -> None:
    own = {"s": torch.ones(1), "t": torch.ones(1)}
    products = [
        float(({**own, **changed.tensors}["s"] * {**own, **changed.tensors}["t"]).sign())
        for changed in changed_values(own, ["s", "t"])
    ]
    assert -1.0 in products


def test_a_positive_tensor_is_changed_by_little_and_by_much_and_stays_positive() -> None:
    tensor = torch.rand(50) + 0.5
    for by in (2.0, 1e3, 1e6):
        ratio = disturbed(tensor, by) / tensor
        assert bool((ratio > 0).all())
        assert float(ratio[0]) == pytest.approx(by)
        assert float(ratio.min()) < 1 < float(ratio.max())


def test_an_output_that_is_no_number_says_nothing_of_a_strange_value() -> None:
    expected, found = [("", torch.ones(2))], [("", torch.tensor([1.0, float("nan")]))]
    assert not is_moved(expected, found, Changed({}, 1e-10, strange=True))
    assert is_moved(expected, found, Changed({}, 1e-10))
    assert is_moved(expected, [*expected, *expected], Changed({}, 1e-10, strange=True))
