"""Mixtures of experts: modules in a list on one side, stacked tensors on the other."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap.testing.planted import randomised

WIDTH, INNER, EXPERTS = 8, 12, 3
X = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(0))


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.ModuleList(
            nn.ModuleDict({"gate": nn.Linear(WIDTH, INNER, bias=False), "up": nn.Linear(WIDTH, INNER, bias=False)})
            for _ in range(EXPERTS)
        )
        self.down = nn.ModuleList(nn.Linear(INNER, WIDTH, bias=False) for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.router(x).argmax(-1)
        result = torch.zeros_like(x)
        for number in range(EXPERTS):
            rows = (chosen == number).nonzero().flatten()
            part, own = self.experts[number], x[rows]
            result = result.index_add(0, rows, self.down[number](F.silu(part.gate(own)) * part.up(own)))
        return result


class Stacked(nn.Module):
    """Rows sorted by expert, and one product by group, as transformers computes experts."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.gate_up = nn.Parameter(torch.randn(EXPERTS, 2 * INNER, WIDTH))
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER))

    def forward(self, x: Tensor) -> Tensor:
        chosen, order = self.router(x).argmax(-1).sort()
        ends = torch.histc(chosen.float(), EXPERTS, 0, EXPERTS - 1).cumsum(0, dtype=torch.int32)
        gate, up = F.grouped_mm(x[order], self.gate_up.mT, offs=ends).chunk(2, -1)
        return torch.zeros_like(x).index_add(0, order, F.grouped_mm(F.silu(gate) * up, self.down.mT, offs=ends))


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this release of torch has no grouped_mm")
@pytest.mark.parametrize("ours", [Listed, Stacked])
def test_listed_and_stacked_experts_map_to_one_another(ours: type[nn.Module]) -> None:
    src, dst = randomised(ours(), 1).eval(), randomised((Stacked if ours is Listed else Listed)(), 2).eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert not mapping.missing
    assert not mapping.unexpected
    mapping.load_into(dst, src.state_dict())
    y = torch.randn(50, WIDTH)
    assert torch.allclose(src(y), dst(y), atol=1e-5)
    assert mapping.proof.error < 1e-9
