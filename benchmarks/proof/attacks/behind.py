"""What lies behind a difference, and destinations that look like a part of the source and are none."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Build, Free, normal


def attacks() -> Iterator[Attack]:
    """Yield shorter stacks, and changes in the middle: the last layers see other values than their counterparts."""
    for name, block in (("residual blocks", _Block), ("normed blocks", _Normed), ("convolutions", _Conv)):
        shape = (2, 8, 9, 9) if block is _Conv else (2, 5, 8)
        for long, short in ((4, 2), (3, 2)):
            yield Attack(
                f"{long} {name} into {short}",
                _stack(block, long),
                _stack(block, short),
                normal(*shape),
                normal(*shape, seed=1),
                behind=("norm.weight", "norm.bias", "head.weight", "head.bias"),
            )
    for name, one, other in (
        ("an activation", torch.tanh, torch.sigmoid),
        ("a number that is added", lambda h: h, lambda h: h + 1),
        ("a scale", lambda h: h, lambda h: h * 1.5),
        ("a residual", lambda h: h + torch.tanh(h), torch.tanh),
        ("a softmax", lambda h: h.softmax(-1), lambda h: (h / 2).softmax(-1)),
    ):
        yield Attack(f"behind {name} that differs", _changed(one), _changed(other),
                     normal(2, 8), normal(3, 8, seed=1), behind=("b.weight", "b.bias", "c.weight", "c.bias"))  # fmt: skip


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Any:
        return x + self.two(F.gelu(self.one(x)))


class _Normed(_Block):
    def __init__(self) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Any:
        return x + super().forward(self.ln(x))


class _Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Any:
        return x + F.silu(self.bn(self.conv(x)))


class Stack(nn.Module):
    """Blocks, a norm and a head: of sequences, or of images."""

    def __init__(self, block: Callable[[], nn.Module], depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(block() for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        """Compute (b, 4) of (b, n, 8) or (b, 8, h, w)."""
        for layer in self.layers:
            x = layer(x)
        x = x.mean((2, 3)) if x.dim() == 4 else x.mean(1)
        return self.head(self.norm(x))


def _stack(block: Callable[[], nn.Module], depth: int) -> Build:
    return lambda: Stack(block, depth)


def _changed(function: Callable[[Tensor], Tensor]) -> Build:
    layers: dict[str, Build] = {
        "a": lambda: nn.Linear(8, 8), "b": lambda: nn.Linear(8, 8), "c": lambda: nn.Linear(8, 4),
    }  # fmt: skip
    return lambda: Free(lambda m, x: m.c(F.gelu(m.b(function(m.a(x))))), layers)
