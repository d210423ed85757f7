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


def test_a_destination_without_the_head_is_proven_as_a_part_of_the_source() -> None:
    mapping = fxmap.auto_map(Body(head=True), Body(head=False), example_inputs=torch.randn(2, 8))
    assert mapping.status("a.weight") is fxmap.Status.PROVEN
    assert mapping.proof.ok
    assert "what a returns" in str(mapping.proof.scope) or mapping.proof.scope.part
