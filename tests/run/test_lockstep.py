"""Lockstep: distances, which output is which, and how the destination goes on behind a difference."""

import pytest
import torch
from torch import Tensor

from fxmap.run.distance import corresponding, distance
from fxmap.run.lockstep import Watch

A, B, C = torch.zeros(2), torch.ones(2), torch.ones(3)
INFINITE = float("inf")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (A, A, 0.0),
        (B, A, 1.0),
        (B, C, INFINITE),
        (B, torch.tensor([1.0, float("nan")]), INFINITE),
        (torch.tensor([float("nan"), 1.0]), B, INFINITE),
        (torch.zeros(0), torch.zeros(0), 0.0),
        (torch.tensor([True, False]), torch.tensor([True, True]), 1.0),
        (torch.tensor([4, 2]), torch.tensor([4, 1]), 0.25),
    ],
)
def test_distance(a: Tensor, b: Tensor, expected: float) -> None:
    assert distance(a, b) == expected


@pytest.mark.parametrize(
    ("expected", "outputs", "found"),
    [
        ([A, B], [B, A], [(0, 0), (1, 1)]),
        ([A, B, C], [C], [(2, 0)]),
        ([B], [A, C, B], [(0, 2)]),
        ([A, B], [2 * B], [(0, 0)]),
        ([A], [C, C], []),
    ],
)
def test_which_output_is_which(expected: list[Tensor], outputs: list[Tensor], found: list[tuple[int, int]]) -> None:
    assert corresponding([("", value) for value in expected], [("", value) for value in outputs], 1e-9) == found


def test_a_restart_has_the_sources_numbers_and_the_destinations_gradient() -> None:
    watch = Watch(("a", "b"), "a", "b")
    ours, leaf = torch.arange(4.0), torch.ones(4, requires_grad=True)
    theirs = leaf * 2
    fresh = watch.restarted(theirs, ours, theirs)
    assert fresh is not None
    assert torch.equal(fresh, ours)
    (gradient,) = torch.autograd.grad(fresh.sum(), leaf)
    assert torch.equal(gradient, torch.full((4,), 2.0))


def test_a_restart_of_some_rows_leaves_the_others() -> None:
    watch = Watch(("a", "b#1"), "a", "b", rows=(None, (1, 3)), axes=(-1, -1))
    value = torch.arange(8.0).reshape(2, 4)
    ours = torch.full((2, 2), 9.0)
    fresh = watch.restarted(value, *watch.values(ours, value))
    assert fresh is not None
    assert fresh.tolist() == [[0, 9, 2, 9], [4, 9, 6, 9]]


def test_a_restart_from_another_shape_and_from_what_is_not_finite() -> None:
    watch = Watch(("a", "b"), "a", "b")
    ours = torch.arange(4.0).reshape(2, 2)
    assert torch.equal(watch.restarted(torch.ones(3, 3), ours, torch.ones(3, 3)), ours)  # type: ignore[arg-type]
    assert torch.equal(watch.restarted(ours / 0, ours, ours / 0), ours)  # type: ignore[arg-type]
    assert watch.restarted(torch.ones(4), ours, torch.ones(4)) is None
