"""Models of which few sizes can be run get those that their code asks for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.prove.inputs import budget
from tests.prove.audits.positioned import Positioned


class Net(nn.Module):
    """Two layers; the function changes what is between them, if `on`."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any], on: bool) -> None:
        super().__init__()
        self.a, self.b, self.function, self.on = nn.Linear(8, 8), nn.Linear(8, 5), function, on

    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.a(x))
        return self.b(self.function(h, x) if self.on else h)


def of_one_area(h: Tensor, table: Tensor) -> bool:
    return h[0, 0].numel() == table[0, 0].numel()


def of_one_shape(h: Tensor, table: Tensor) -> bool:
    return h.shape[2:] == table[0, 0].shape


PARTING: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a batch that 8 divides": lambda h, x: -h if x.shape[0] % 8 == 0 else h,
    "a batch above 64": lambda h, x: -h if x.shape[0] > 64 else h,
    "a batch above 70, by its length": lambda h, x: -h if len(x) > 70 else h,
    "more than 3000 numbers": lambda h, x: -h if x.numel() > 3000 else h,
    "no rows": lambda h, x: h if len(x) else h.new_zeros(1, 6, 8),
}


@pytest.fixture(autouse=True)
def _as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every model count as a large one."""
    monkeypatch.setattr(budget, "_TINY", 0)
    monkeypatch.setattr(budget, "_SMALL", 0)


@pytest.mark.parametrize("name", PARTING)
def test_sizes_that_code_asks_for_are_run_in_large_models(name: str) -> None:
    function, example = PARTING[name], torch.randn(2, 6, 8)
    assert not fxmap.auto_map(Net(function, False), Net(function, True), example_inputs=example).proof.ok
    assert fxmap.auto_map(Net(function, True), Net(function, True), example_inputs=example).proof.ok


def test_a_map_of_the_area_that_code_compares_is_run_in_large_models() -> None:
    image = torch.randn(1, 3, 32, 32)
    assert not fxmap.auto_map(Positioned(of_one_area), Positioned(of_one_shape), example_inputs=image).proof.ok
    assert fxmap.auto_map(Positioned(of_one_area), Positioned(of_one_area), example_inputs=image).proof.ok
