import doctest
from pathlib import Path

import torch
from torch import Tensor, nn

import fxmap

PAGE = Path(__file__).parents[2] / "docs/proof.md"


def test_the_examples_of_the_page_do_what_it_says() -> None:
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.attempted > 5
    assert results.failed == 0


class Body(nn.Module):
    def __init__(self, head: bool) -> None:
        super().__init__()
        self.a, self.h = nn.Linear(8, 8), nn.Linear(8, 4) if head else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.h(torch.tanh(self.a(x)))
        return y


def test_what_is_said_not_to_be_there_is_not_there() -> None:
    assert "a destination without the head" in PAGE.read_text(encoding="utf-8")
    mapping = fxmap.auto_map(Body(head=True), Body(head=False), example_inputs=torch.randn(2, 8))
    assert mapping.status("a.weight") is fxmap.Status.PROVEN
    assert not mapping.proof.ok
