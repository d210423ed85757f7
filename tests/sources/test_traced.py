"""Traces of code that takes values apart, and what they are mapped into."""

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.testing.planted import randomised


class Tokens(nn.Module):
    """A token that is joined to patches, taken off them, and joined again: in a trace by slices of all of an axis, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token, self.mix = nn.Linear(3, 8), nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1)
        token, rest = x[:, :1], x[:, 1:]
        x = self.norm(torch.cat([token, rest + self.mix(rest)], 1))
        out: Tensor = self.head(x.softmax(1).mean(1))
        return out


@pytest.mark.filterwarnings("ignore")
def test_a_token_that_is_taken_off_and_joined_again_in_a_trace_is_mapped_and_proven() -> None:
    src, dst, x = randomised(Tokens(), 1), randomised(Tokens(), 2), torch.randn(2, 5, 3)
    mapping = fxmap.load(dst, torch.jit.trace(src, x), example_inputs=x)
    assert mapping.ok, mapping.proof.reason
    assert torch.equal(src(x), dst(x))
