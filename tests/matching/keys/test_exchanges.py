"""Branches that may change places: a checkpoint alone need not tell them apart."""

import random

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.matching.keys.destination import ask
from fxmap.matching.keys.mapper import map_by_name


def branch() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))


class Branches(nn.Module):
    """Two branches of the same shapes, and a layer behind them."""

    def __init__(self, one: str, two: str, sign: float) -> None:
        super().__init__()
        self.add_module(one, branch())
        self.add_module(two, branch())
        self.last = nn.Conv2d(4, 2, 1)
        self.names, self.sign = (one, two), sign

    def forward(self, x: Tensor) -> Tensor:
        one, two = (self.get_submodule(name)(x) for name in self.names)
        out: Tensor = self.last(one + two if self.sign > 0 else one - two)
        return out


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1)
    return model.eval()


def shuffled(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return a state dict whose order tells nothing."""
    state = model.state_dict()
    return {key: state[key] for key in random.Random(seed).sample(list(state), len(state))}


@pytest.mark.parametrize("seed", [0, 1, 3])  # by chance, the order of 2 resembles the destination's
def test_branches_that_are_summed_need_not_be_told_apart(seed: int) -> None:
    src = randomised(Branches("north", "south", 1.0))
    dst = Branches("east", "west", 1.0).eval()
    state = shuffled(src, seed)
    assert map_by_name(state, dst.state_dict(), "the graph not asked").missing
    mapping = fxmap.auto_map(state, dst)
    assert not mapping.missing
    mapping.load_into(dst, state)
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(dst(x), src(x), rtol=1e-4)


def test_branches_that_are_subtracted_stay_open() -> None:
    src = randomised(Branches("north", "south", -1.0))
    mapping = fxmap.auto_map(shuffled(src, 0), Branches("east", "west", -1.0).eval())
    assert {"east.0.weight", "west.0.weight", "east.3.bias", "west.3.bias"} <= set(mapping.missing)


def test_what_the_graph_tells() -> None:
    summed, subtracted = (ask(Branches("one", "two", sign)) for sign in (1.0, -1.0))
    (exchange,) = summed.exchanges
    assert exchange["one.3.bias"] == "two.3.bias"
    assert len(exchange) == 8
    assert subtracted.exchanges == ()
    assert "one.1.num_batches_tracked" in summed.unread
