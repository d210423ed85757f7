"""The numbers that a search has found so far, step by step, and how many vectors of them it holds."""

import pytest
import torch
from torch import nn

from fxmap.capture.recorded import capture_run
from fxmap.matching.solve.unknown import unknowns
from fxmap.matching.solve.unknown.unknowns import Layout, Weights
from fxmap.model.inputs import as_inputs


def _steps(count: int) -> list[Weights]:
    """Return the weights of a layer of eight numbers, of which each step finds one more."""
    captured = capture_run(nn.Linear(3, 2), as_inputs(torch.randn(2, 3)))
    found = [Weights.none(Layout.of(captured, dict(captured.tensors)))]
    for step in range(count):
        entry, number = torch.tensor([step]), torch.tensor([step + 0.5]).double()
        found.append(found[-1].having(entry, number, torch.tensor([10 + step])))
    return found


def test_every_step_has_the_numbers_of_those_before_it_in_whatever_order_they_are_asked_for() -> None:
    steps = _steps(6)
    for index in (6, 2, 4, 0, 6):
        known = [0.5 + step if step < index else 0.0 for step in range(8)]
        assert steps[index].numbers.tolist() == known
        assert steps[index].known.tolist() == [step < index for step in range(8)]
        assert steps[index].places.tolist() == [10 + step if step < index else -1 for step in range(8)]


def test_a_search_that_is_many_steps_deep_holds_the_vectors_of_the_last_few_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknowns, "_KEPT", 24)
    steps = _steps(7)
    prints = [one.print() for one in steps]
    assert sum(one._vectors is not None for one in steps) == 3
    assert [one.print() for one in steps] == prints
