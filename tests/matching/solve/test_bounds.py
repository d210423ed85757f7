"""A search for weights ends when it has cost too much, or would take too much memory, and says which."""

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.matching.solve.choosing import fitting
from fxmap.matching.solve.known import source
from fxmap.matching.solve.runs.effort import Effort, OutOfEffort
from fxmap.matching.solve.unknown import frontier, systems
from fxmap.testing.planted import randomised


class Product(nn.Module):
    """A layer whose weight multiplies from the right, with its bias in one matrix with it."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones_like(x[..., :1])], -1) @ self.matrix


def test_what_would_take_too_much_memory_is_not_tried_and_the_trace_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    src, dst = randomised(nn.Sequential(nn.Linear(4, 3), nn.Tanh()), 0), nn.Sequential(Product(), nn.Tanh())
    monkeypatch.setattr(source.SourceValues, "LIMIT", 500)
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 4))
    (equations,) = [step for step in mapping.trace.steps if step.stage == "equations"]
    assert "too much memory" in equations.left
    assert "500 numbers" in equations.left


def test_systems_that_would_take_too_much_memory_end_a_search_and_the_trace_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    src, dst = randomised(nn.Sequential(nn.Linear(4, 3), nn.Tanh()), 0), nn.Sequential(Product(), nn.Tanh())
    monkeypatch.setattr(systems.Factorisations, "LIMIT", 100)
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 4))
    (equations,) = [step for step in mapping.trace.steps if step.stage == "equations"]
    assert "too much memory" in equations.left
    assert "systems of equations have more than 100 numbers" in equations.left
    assert not mapping.proof.ok


def test_what_is_too_large_to_be_remembered_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    src, dst = randomised(nn.Sequential(nn.Linear(4, 3), nn.Tanh()), 0), nn.Sequential(Product(), nn.Tanh())
    monkeypatch.setattr(fitting, "_LOOKS", 0)
    assert fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 4)).proof.ok


def test_fewer_samples_are_taken_of_values_that_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    src, dst = randomised(nn.Sequential(nn.Linear(4, 3), nn.Tanh()), 0), nn.Sequential(Product(), nn.Tanh())
    seen: list[int] = []
    before = frontier.Advance.__init__

    def noted(self: frontier.Advance, captured: object, inputs: list[Tensor]) -> None:
        seen.append(len(inputs[0]))
        before(self, captured, inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(frontier.Advance, "__init__", noted)
    monkeypatch.setattr("fxmap.matching.solve.weights._FEWEST", 40)
    monkeypatch.setattr(source.SourceValues, "LIMIT", 35 * 60)
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 4))
    assert mapping.proof.ok
    assert set(seen) == {40}


def test_what_goes_straight_on_may_spend_what_is_kept_for_others() -> None:
    whole = Effort(1.0)
    own = whole.share(0.4)
    own.spend(numbers=0.6e9)
    own.straight = False
    with pytest.raises(OutOfEffort):
        own.spend(runs=1)
