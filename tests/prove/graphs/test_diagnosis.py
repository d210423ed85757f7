"""The first divergence: what differs, and where, in the names of both models."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Concat, Slice
from fxmap.testing.planted import randomised


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Block(nn.Module):
    """Attention with joined projections behind a norm by hand, and a small network behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = RMSNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.act, self.down = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)
        self.scale = 8**-0.5

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out(torch.softmax((q * self.scale) @ k.transpose(-2, -1), -1) @ v)
        return x + self.down(self.act(self.up(x)))


INPUTS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def _identity(model: nn.Module) -> dict[str, Expression]:
    return {key: Source(key) for key in model.state_dict()}


def _divergence(change: Callable[[nn.Module], None], mapping: dict[str, Expression] | None = None) -> fxmap.Divergence:
    src, dst = randomised(Block(), 1), randomised(Block(), 2)
    change(dst)
    proof = fxmap.verify(src, dst, _identity(dst) | (mapping or {}), example_inputs=INPUTS)
    assert not proof.ok
    assert proof.divergence is not None
    return proof.divergence


def _set(path: str, **values: object) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for name, value in values.items():
            setattr(model.get_submodule(path), name, value)

    return change


def _clamp(path: str, size: float) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        model.get_submodule(path).register_forward_hook(lambda _m, _a, out: out.clamp(-size, size))

    return change


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        (_set("norm", eps=1.0000001e-6), "norm (add)", "add 1.0000001e-06 against 1e-06"),
        (_set("norm", eps=1e-3), "norm (add)", "add 0.001 against 1e-06"),
        (_set("", act=nn.Identity()), "down (linear)", "relu without a counterpart in the destination"),
        (_set("", act=nn.GELU()), "act (gelu)", "gelu against relu"),
        (_clamp("out", 1e6), "out (clamp)", "clamp without a counterpart in the source"),
        (_clamp("out", 1e-3), "out (clamp)", "clamp without a counterpart in the source"),
        (_clamp("up", 1e6), "up (clamp)", "clamp against relu"),
        (_clamp("", 1e6), "clamp", "clamp without a counterpart in the source"),
    ],
)
def test_an_operation_is_named(change: Callable[[nn.Module], None], place: str, words: str) -> None:
    found = _divergence(change)
    assert found.dst.startswith(place)
    assert words in found.attribute


def test_the_activation_that_is_absent_is_named_in_the_source() -> None:
    assert _divergence(_set("", act=nn.Identity())).src == "act (relu)"


def test_a_scale_is_located_where_it_acts() -> None:
    assert _divergence(_set("", scale=0.5)).dst.endswith("(bmm)")


def test_a_tensor_is_named_with_what_it_was_made_of() -> None:
    parts = [Slice(Source("qkv.weight"), start, start + 8) for start in (8, 0, 16)]
    found = _divergence(lambda _: None, {"qkv.weight": Concat(tuple(parts))})
    assert found.dst == "qkv (linear)"
    assert found.attribute.startswith("qkv.weight is concat(qkv.weight[8:16], qkv.weight[0:8]")
    found = _divergence(lambda _: None, {"up.bias": Source("up.bias"), "down.bias": Source("out.bias")})
    assert found.attribute == "down.bias is out.bias, which is not down.bias"


def test_an_input_that_one_model_ignores_is_no_proof() -> None:
    class Masked(nn.Module):
        def __init__(self, used: bool) -> None:
            super().__init__()
            self.fc, self.used = nn.Linear(4, 4), used

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.fc(x) * mask if self.used else self.fc(x)

    src, dst = randomised(Masked(True), 1), randomised(Masked(False), 2)
    proof = fxmap.verify(src, dst, {"fc.weight": "fc.weight", "fc.bias": "fc.bias"}, (INPUTS[..., :4], torch.ones(2, 5, 1)))
    assert not proof.ok
    assert proof.divergence is not None


def test_an_inserted_threshold_that_no_input_reaches_is_no_proof() -> None:
    src = randomised(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), 1).eval()
    dst = randomised(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Threshold(-4, -4), nn.Linear(4, 2)), 2).eval()
    mapping = fxmap.auto_map(src, dst)
    assert not mapping.proof.ok
    assert "threshold without a counterpart" in str(mapping.proof)


class Last(nn.Module):
    """A linear layer and something done with what it gives."""

    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.then = nn.Linear(4, 4), then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.linear(x))


def test_an_operation_that_is_not_known_to_be_analytic_is_no_proof() -> None:
    """Times isfinite(x), x is x for every number, and another function where no input reaches."""
    known = fxmap.auto_map(Last(torch.sinh), Last(lambda x: (torch.exp(x) - torch.exp(-x)) / 2))
    assert known.proof.ok
    mapping = fxmap.auto_map(Last(lambda x: x), Last(lambda x: x * torch.isfinite(x)))
    assert not mapping.proof.ok
    assert mapping.proof.divergence is not None
    assert mapping.proof.divergence.attribute == "isfinite without a counterpart in the source"
