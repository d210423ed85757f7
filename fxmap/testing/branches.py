"""A small network with what graphs of quantization make hard: norms to fold, shared ranges, a bias, a head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fxmap.testing.recipes.graphs import BUILDERS


class Branches(nn.Module):
    """Two branches whose results are pooled and concatenated, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.left, self.left_norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.right = nn.Conv2d(4, 6, 3)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        both = torch.cat([self.pool(self.left_norm(self.left(x))), self.pool(self.right(x))], 1)
        logits: Tensor = self.head(nn.functional.adaptive_avg_pool2d(both, 1).flatten(1))
        return logits


def branches(seed: int, *, eps: float = 1e-3) -> nn.Module:
    """Build the network with nothing at 0 or 1, in eval mode; `eps` is that of one of its norms."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Branches()
        model.norm.eps = eps
        with torch.no_grad():
            for norm in (model.norm, model.left_norm):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_()
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    return model.eval()


def images(seed: int, count: int = 2) -> list[Tensor]:
    """Draw batches of two images."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 24, 24, generator=generator) for _ in range(count)]


def eps_of(name: str) -> float:
    """Return the eps that the network has in a form: torchao's preparation for QAT makes all of them 1e-5."""
    return 1e-5 if name.startswith("pt2e-") and name.endswith("-qat") else 1e-3


def form(name: str, seed: int, data: Sequence[Tensor] = ()) -> nn.Module:
    """Build a form of the network by the reference recipe."""
    return BUILDERS[name](branches(seed, eps=eps_of(name)), data, images(0, 1)[0])
