"""Operations are aligned by the values that they make where both models return the same, and structure pairs others."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap.testing.planted import randomised


class Linear(nn.Module):
    """Attention without a softmax: keys times values first, or queries times keys."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.joined = joined
        self.parts = nn.ModuleList([nn.Linear(4, 12)] if joined else [nn.Linear(4, 4) for _ in range(3)])
        self.out = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.parts[0](x).chunk(3, -1) if self.joined else [part(x) for part in self.parts]
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if self.joined:
            read = (q @ (k.mT @ v)) / (q @ k.sum(1)[..., None])
        else:
            scores = torch.einsum("bqd,bkd->bqk", q, k)
            read = scores / scores.sum(-1, keepdim=True) @ v
        made: Tensor = self.out(read)
        return made


def test_products_in_another_order_are_proven() -> None:
    src, dst = randomised(Linear(True), 0), Linear(False)
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 5, 4))
    assert mapping.proof.ok
    assert not mapping.missing


def test_an_activation_that_only_seems_the_same_is_not_proven() -> None:
    class Clamped(Linear):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part(x) for part in self.parts)
            q, k = F.elu(q.clamp(max=1e4)) + 1, F.elu(k) + 1
            scores = torch.einsum("bqd,bkd->bqk", q, k)
            made: Tensor = self.out(scores / scores.sum(-1, keepdim=True) @ v)
            return made

    src, dst = randomised(Linear(True), 0), Clamped(False)
    assert not fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 5, 4)).proof.ok


class Gate(nn.Module):
    """The logarithm of a gate, of code that no trace follows."""

    def __init__(self, soft: bool) -> None:
        super().__init__()
        self.soft, self.layer = soft, nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x) if len(x) > 0 and x.sum() < 1e300 else x
        return -F.softplus(-y) if self.soft else F.logsigmoid(y)


def test_the_logarithm_of_a_gate_is_smooth_in_a_recorded_run() -> None:
    src, dst = randomised(Gate(False), 0), Gate(True)
    assert fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 3)).proof.ok
