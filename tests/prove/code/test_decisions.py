"""Sizes that code makes of values are values, also behind other operations; other sizes of such tensors are none."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.prove.code.decisions import Decisions

X = torch.randn(2, 6, 8)


def counted(n: Tensor) -> Tensor:
    return torch.arange(100)[:n]


MADE: dict[str, Callable[[Tensor], int]] = {
    "a cut": lambda n: counted(n).numel(),
    "a sum of two": lambda n: (counted(n) + counted(n)).numel(),
    "a join": lambda n: torch.cat([counted(n), torch.zeros(3)]).shape[0],
    "rows with another axis": lambda n: (counted(n)[:, None] * torch.ones(1, 3)).size(0),
    "repeated": lambda n: (torch.ones(3).repeat_interleave(n) * 2).shape[0],
    "a view of two axes": lambda n: (X[:, :, :n] * 1).flatten(1).shape[1],
}


@pytest.mark.parametrize("name", MADE)
def test_a_size_that_values_have_made_is_a_value_behind_other_operations(name: str) -> None:
    with Decisions() as seen:
        _ = MADE[name](torch.tensor(5)) == 41
    assert seen.numbers == {41}
    assert all(site.by_value for site in seen.outcomes)


@pytest.mark.parametrize("size", [lambda n: (X[:, :n] + 1).shape[0], lambda n: (X[:, :n] * X[:, :n]).size(2)])
def test_the_other_sizes_of_such_a_tensor_are_sizes(size: Callable[[Tensor], int]) -> None:
    with Decisions() as seen:
        _ = size(torch.tensor(5)) == 41
    assert (seen.sizes, seen.numbers) == ({41}, set())


class Counting(nn.Module):
    """A layer that turns its output where a length that a value says is 41, if `on`."""

    def __init__(self, on: bool) -> None:
        super().__init__()
        self.a, self.on = nn.Linear(8, 4), on

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        h: Tensor = self.a(x)
        return -h if (counted(n) + counted(n)).numel() == 41 and self.on else h


def test_a_decision_by_a_length_that_a_sum_of_two_has_is_turned_round() -> None:
    example = (X, torch.tensor(6))
    assert not fxmap.auto_map(Counting(False), Counting(True), example_inputs=example).proof.ok
    assert fxmap.auto_map(Counting(True), Counting(True), example_inputs=example).proof.ok
