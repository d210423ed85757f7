"""What is known of the destination need not be solved for; what is wrongly taken for known is solved for all the same."""

import pytest
import torch
from torch import nn

from fxmap.expressions.base import Expression, Source
from fxmap.matching.sides import side
from fxmap.matching.solve.weights import solve_weights
from fxmap.model.inputs import as_inputs


@pytest.mark.parametrize(
    ("known", "unknown"),
    [
        ({"0.weight": "0.weight", "0.bias": "0.bias"}, {"2.weight", "2.bias"}),
        ({"0.weight": "2.weight"}, {"0.weight", "0.bias", "2.weight", "2.bias"}),
        ({}, {"0.weight", "0.bias", "2.weight", "2.bias"}),
    ],
)
def test_what_is_known_is_not_solved_for_unless_it_is_wrong(known: dict[str, str], unknown: set[str]) -> None:
    src, dst = (nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)) for _ in range(2))
    x = torch.randn(3, 5)
    networks = [side(model, as_inputs(x)).main for model in (src, dst)]
    given: dict[str, Expression] = {path: Source(key) for path, key in known.items()}
    found = solve_weights(networks[0], networks[1], [given])
    assert found.equal
    assert found.unknown == unknown
    assert {path: str(made) for path, made in found.expressions.items()} == {path: path for path in dst.state_dict()}
