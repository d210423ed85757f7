"""A mask that is given as true and false is known to be so in traced graphs as well."""

import math

import pytest
import torch
from torch import Tensor, nn

import fxmap


class Scores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def masked(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.masked_fill(~mask[:, None], -math.inf)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        y: Tensor = self.b(self.masked(h @ h.mT, mask).softmax(-1) @ x)
        return y


class Chosen(Scores):
    def masked(self, scores: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask[:, None], scores, -math.inf)


class Inverted(Scores):
    def masked(self, scores: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask[:, None], -math.inf, scores)


@pytest.mark.parametrize(("other", "ok"), [(Chosen, True), (Inverted, False)])
def test_a_fill_where_a_mask_is_false_is_a_choice_where_it_is_true(other: type[nn.Module], ok: bool) -> None:
    inputs = torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, False, True]])
    mapping = fxmap.auto_map(Scores(), other(), example_inputs=inputs)
    assert mapping.proof.ok is ok
    assert not ok or "symbolic" in mapping.knowledge.rungs[0]
