"""Joined layers whose halves two models store the other way round: which rows are read where, shapes do not tell."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap.testing.planted import randomised


class Gated(nn.Module):
    """A gated layer; the gate is the first or the second half of what is joined."""

    def __init__(self, gate: int) -> None:
        super().__init__()
        self.joined, self.down, self.gate = nn.Linear(6, 16), nn.Linear(8, 6), gate

    def forward(self, x: Tensor) -> Tensor:
        halves = self.joined(x).chunk(2, -1)
        out: Tensor = self.down(F.silu(halves[self.gate]) * halves[1 - self.gate])
        return out


@pytest.mark.parametrize(("ours", "theirs"), [(0, 1), (1, 0), (0, 0)])
def test_the_half_that_is_the_gate_is_found(ours: int, theirs: int) -> None:
    src, dst = randomised(Gated(ours), 1), randomised(Gated(theirs), 2)
    x = torch.randn(2, 3, 6)
    mapping = fxmap.auto_map(src, dst, example_inputs=x)
    assert mapping.proof.ok
    mapping.load_into(dst, src.state_dict())
    assert torch.equal(src.joined.weight.chunk(2)[ours], dst.joined.weight.chunk(2)[theirs])
    assert torch.allclose(src(x), dst(x), atol=1e-6)
