"""Further runs of an audit: each pair parts behind a decision of its code, which leaves nothing in a graph."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap


class Net(nn.Module):
    """Two layers; the function changes what is between them, if `on`."""

    def __init__(self, function: Callable[..., Any], on: bool) -> None:
        super().__init__()
        self.table, self.a, self.b = nn.Embedding(40, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.function, self.on = function, on

    def forward(self, x: Any, mask: Any = None, n: int = 1) -> Tensor:
        given = x if isinstance(x, Tensor) else x[0]
        h: Tensor = torch.tanh(self.a(given if given.is_floating_point() else self.table(given))) * n
        if isinstance(mask, Tensor):
            h = h * mask[..., None]
        if isinstance(x, list):
            h = h + sum(x) / len(x)
        changed: Tensor = self.b(self.function(h, x, mask, n) if self.on else h)
        return changed


FLOATS, IDS, MASK = (
    torch.randn(2, 6, 8),
    torch.randint(1, 40, (2, 6)),
    torch.tensor([[1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]]),
)
PARTING: dict[str, tuple[Callable[..., Any], Any]] = {
    "from 0 to 1": (lambda h, x, *_: -h if bool(x.min() >= 0) and bool(x.max() <= 1) else h, FLOATS),
    "whole numbers": (lambda h, x, *_: -h if torch.equal(x, x.round()) else h, FLOATS),
    "one number in particular": (lambda h, x, *_: -h if bool((x == 37.5).any()) else h, FLOATS),
    "a number of Python": (lambda h, x, *_: -h if 4 < x.std().item() < 40 else h, FLOATS),
    "sorted": (lambda h, x, *_: -h if bool((x[:, 1:] >= x[:, :-1]).all()) else h, IDS),
    "a mask without a hole": (lambda h, x, mask, _: -h if bool(mask.all()) else h, (IDS, MASK)),
    "an empty row": (lambda h, x, mask, _: -h if bool((mask.sum(1) == 0).any()) else h, (IDS, MASK)),
    "counts in the place of a mask": (lambda h, x, mask, _: h * mask[..., None], (IDS, MASK)),
    "int32": (lambda h, x, *_: -h if x.dtype is torch.int32 else h, IDS),
    "gradients": (lambda h, *_: -h if torch.is_grad_enabled() else h, FLOATS),
    "no batch": (lambda h, x, *_: -h if x.dim() == 2 else h, FLOATS),
    "divisible lengths": (lambda h, x, *_: -h if x.shape[1] % 10 == 0 else h, FLOATS),
    "divisible batches": (lambda h, x, *_: -h if x.shape[0] % 3 == 0 else h, FLOATS),
    "three in a list": (lambda h, x, *_: -h if len(x) == 3 else h, ([FLOATS, FLOATS + 1],)),
    "an argument that was left out": (lambda h, x, mask, _: h if mask is None else -h, IDS),
    "another number of steps": (lambda h, x, mask, n: h if n == 1 else -h, (IDS, MASK, 1)),
}


@pytest.mark.parametrize("name", PARTING)
def test_what_parts_on_special_inputs_is_refuted(name: str) -> None:
    function, example = PARTING[name]
    proof = fxmap.auto_map(Net(function, False), Net(function, True), example_inputs=example).proof
    assert proof is not None
    assert not proof.ok
    assert "on other inputs" in proof.reason


@pytest.mark.parametrize("name", PARTING)
def test_a_model_with_decisions_is_itself(name: str) -> None:
    function, example = PARTING[name]
    proof = fxmap.auto_map(Net(function, True), Net(function, True), example_inputs=example).proof
    assert proof is not None
    assert proof.ok, proof.reason


def _strange(x: Tensor) -> bool:
    return bool((x.sin() * 1000).sum() > 10_000_000)


def test_a_decision_that_no_input_meets_is_turned_round_and_named() -> None:
    one, other = (Net(lambda h, x, *_: -h if _strange(x) else h, on) for on in (False, True))
    proof = fxmap.auto_map(one, other, example_inputs=FLOATS).proof
    assert proof is not None
    assert not proof.ok
    assert "test_further.py" in proof.reason
    assert "10_000_000" in proof.reason


def test_a_decision_that_changes_nothing_is_no_obstacle() -> None:
    one, other = (Net(lambda h, x, *_: h * 1 if _strange(x) else h, on) for on in (False, True))
    proof = fxmap.auto_map(one, other, example_inputs=FLOATS).proof
    assert proof is not None
    assert proof.ok


def _each(change: Callable[[Tensor], Any]) -> Callable[..., Tensor]:
    """Return a function that loops over places of the input that no draw has, and negates where there are any."""

    def function(h: Tensor, x: Tensor, *_: Any) -> Tensor:
        for _place in change(x.abs() > 10_000_000):
            return -h
        return h

    return function


@pytest.mark.parametrize(
    "places",
    [
        lambda big: big.nonzero(),
        lambda big: torch.where(big)[0].tolist(),
        torch.argwhere,
        lambda big: big[big],
    ],
)
def test_a_loop_over_places_that_no_input_has_is_turned_round(places: Callable[[Tensor], Any]) -> None:
    one, other = (Net(_each(places), on) for on in (False, True))
    proof = fxmap.auto_map(one, other, example_inputs=FLOATS).proof
    assert not proof.ok
    assert "the models' own code decides by values" in proof.reason
    assert fxmap.auto_map(other, other, example_inputs=FLOATS).proof.ok
