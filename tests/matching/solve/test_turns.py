"""A search that something wrong, or something right but in the way, leads astray does not keep the others waiting."""

import pytest
import torch
from torch import Tensor, nn

from fxmap.expressions.base import Expression, Source
from fxmap.matching.sides import side
from fxmap.matching.solve.search import Search
from fxmap.matching.solve.weights import solve_weights
from fxmap.model.inputs import as_inputs


class Joined(nn.Module):
    """Attention whose queries, keys and values are one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(8, 24, bias=False), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind()
        return self.o(((q @ k.transpose(2, 3) * 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Heads(nn.Module):
    """The same with a layer for each head: with `o` known, the output is affine in the values of both heads at once."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.ModuleList(nn.Linear(8, 4, bias=False) for _ in range(2)) for _ in range(3))
        self.o = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        made = []
        for q, k, v in zip(self.q, self.k, self.v, strict=True):
            made.append((q(x) @ k(x).transpose(1, 2) * 0.5).softmax(-1) @ v(x))
        return self.o(torch.cat(made, -1))


def test_what_is_known_and_in_the_way_costs_a_short_turn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    before = Search._at_position

    def noted(self: Search, *args: object) -> object:
        steps.append(1)
        return before(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Search, "_at_position", noted)
    inputs = as_inputs(torch.randn(2, 5, 8))
    networks = [side(model, inputs).main for model in (Joined(), Heads())]
    known: dict[str, Expression] = {path: Source(path) for path in ("o.weight", "o.bias")}
    found = solve_weights(networks[0], networks[1], [known])
    assert found.equal
    assert len(found.unknown) == 8
    assert len(steps) < 40  # 861 where the first search spent its share
