"""Which inputs a proof runs on."""

import torch
from torch import Tensor, nn

from fxmap.matching.strategies.problem import Problem
from fxmap.matching.strategies.solve import solve
from fxmap.model.inputs import Given
from fxmap.prove.runs.choose_inputs import ChosenInputs, choose_inputs


def _chosen(model: nn.Module, given: Given) -> ChosenInputs:
    plan = solve(Problem(model, model, given)).plan
    assert plan is not None
    chosen = choose_inputs(plan, given)
    assert chosen is not None
    return chosen


def test_given_inputs_come_first_and_the_users_code_runs_on_other_values() -> None:
    x = torch.randn(1, 3, 16, 16)
    chosen = _chosen(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), Given.of(x))
    assert torch.equal(chosen.first.src.flat()[0], x)
    assert [pair.src.flat()[0].shape for pair in chosen.further] == [x.shape]
    assert [tuple(pair.src.flat()[0].shape) for pair in chosen.own_code] == [(1, 3, 16, 16)]


def test_both_models_get_the_same_further_values_whatever_their_arguments_are_called() -> None:
    x = torch.randn(2, 4)
    chosen = _chosen(nn.Sequential(nn.Linear(4, 4)), Given.of(x, (x,)))
    assert all(torch.equal(pair.src.flat()[0], pair.dst.flat()[0]) for pair in (*chosen.further, *chosen.own_code))
    assert not torch.equal(chosen.further[0].src.flat()[0], x)


def test_inputs_are_found_where_none_are_given() -> None:
    chosen = _chosen(nn.Sequential(nn.Linear(4, 4)), Given())
    shapes: list[Tensor] = [pair.src.flat()[0] for pair in (chosen.first, *chosen.further)]
    assert all(tensor.shape[-1] == 4 for tensor in shapes)
