"""Decisions that only inputs meet which are the same along an axis: there a flip or a roll shows nothing."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxmap


class Deciding(nn.Module):
    """A layer on an input, or on what becomes of the input where a condition holds."""

    def __init__(self, condition: Callable[[Tensor], bool], change: Callable[[Tensor], Tensor], ids: int = 0) -> None:
        super().__init__()
        self.table = nn.Embedding(ids, 8) if ids else nn.Identity()
        self.a, self.condition, self.change = nn.Linear(8, 4), condition, change

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.a(torch.tanh(self.table(self.change(x) if self.condition(x) else x)))
        return y


NEVER: Callable[[Tensor], bool] = lambda x: False  # noqa: E731 -- a condition as the others
FLOATS: dict[str, tuple[Callable[[Tensor], bool], Callable[[Tensor], Tensor]]] = {
    "first and last step equal, rolled": (lambda x: bool((x[:, 0] == x[:, -1]).all()), lambda x: x.roll(1, 1)),
    "a leading step of 0, moved": (lambda x: bool((x[:, 0] == 0).all()), lambda x: x.roll(-1, 1)),
    "channels equal, turned in time": (lambda x: bool((x == x[..., :1]).all()), lambda x: x.flip(1)),
    "numbers of -1 and 1, mirrored": (lambda x: bool((x.abs() == 1).all()), lambda x: x.flip(-1)),
    "lists of two steps, rolled": (lambda x: bool(x[:, 0].tolist() == x[:, -1].tolist()), lambda x: x.roll(1, 1)),
    "a size that values make, turned": (
        lambda x: torch.arange(100)[: x.mean().long().clamp(0, 100)].numel() == 41, lambda x: x.flip(1)
    ),
    "torch.equal of two steps, rolled": (lambda x: torch.equal(x[:, 0], x[:, -1]), lambda x: x.roll(1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOATS)
def test_a_decision_that_even_inputs_alone_meet_is_not_shown_by_them(name: str) -> None:
    condition, change = FLOATS[name]
    src, dst = Deciding(NEVER, change).eval(), Deciding(condition, change).eval()
    assert not fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 6, 8)).proof.ok


def test_ids_of_an_upper_range_or_with_one_at_the_end_are_run_in_several_values() -> None:
    ids = torch.randint(0, 300, (2, 6))
    conditions: tuple[Callable[[Tensor], bool], ...] = (
        lambda i: bool((i >= 250).all()),
        lambda i: bool((i[:, -1] == 2).all()),
    )
    for condition in conditions:
        pair = [Deciding(one, lambda i: i.flip(1), 300).eval() for one in (NEVER, condition)]
        assert not fxmap.auto_map(*pair, example_inputs=ids).proof.ok


def test_the_same_decision_in_both_models_is_proven() -> None:
    condition, change = FLOATS["channels equal, turned in time"]
    src, dst = Deciding(condition, change).eval(), Deciding(condition, change).eval()
    proof = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 6, 8)).proof
    assert proof.ok, proof
