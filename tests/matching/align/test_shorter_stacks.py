"""A destination that has the first layers of the source alone: which norm is the last one, its readers tell."""

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap import Status


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return out


class Stack(nn.Module):
    """Blocks that begin with a norm, a norm behind the last one, an activation if asked for, and a head."""

    def __init__(self, depth: int, classes: int, activation: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.last, self.activation, self.head = nn.LayerNorm(width), activation, nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.activation(self.last(self.blocks(x))))
        return out


class Renamed(nn.Module):
    """The same under other names: those of the source tell nothing."""

    def __init__(self, inner: Stack) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = inner.blocks, inner.last, inner.activation, inner.head

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.d(self.c(self.b(self.a(x))))
        return out


@pytest.mark.parametrize("activation", [nn.Identity(), nn.ReLU()])
@pytest.mark.parametrize("classes", [5, 3])
def test_the_norm_behind_the_last_layer_is_that_of_the_source(classes: int, activation: nn.Module) -> None:
    src, dst = Stack(6, 5, activation), Renamed(Stack(4, classes, activation))
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 3, 8))
    assert mapping.renames["b.weight"] == "last.weight"
    assert mapping.renames["b.bias"] == "last.bias"
    assert mapping.renames["a.3.down.weight"] == "blocks.3.down.weight"
    assert mapping.mismatched == ([] if classes == 5 else ["d.weight", "d.bias"])
    assert not mapping.proof.ok
    assert mapping.status("a.3.down.weight") is Status.PROVEN


def test_a_norm_that_two_places_fit_is_not_proven() -> None:
    """A body without its head: whether its norm is the last one or that of the next layer, nothing tells."""
    src = Stack(6, 5, nn.Identity())
    dst = nn.Sequential(*Stack(4, 5, nn.Identity()).blocks, nn.LayerNorm(8))
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 3, 8))
    assert mapping.status("4.weight") is not Status.PROVEN
    assert mapping.status("4.bias") is not Status.PROVEN
    assert mapping.status("3.up.weight") is Status.PROVEN


def test_a_layer_with_other_inputs_leaves_the_norm_behind_it_alone() -> None:
    def build(channels: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))

    mapping = fxmap.auto_map(build(3), build(4), example_inputs=torch.randn(1, 3, 8, 8), dst_inputs=torch.randn(1, 4, 8, 8))
    assert mapping.mismatched == ["0.weight"]
    assert mapping.renames["1.running_var"] == "1.running_var"
