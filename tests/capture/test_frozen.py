"""A frozen batch norm that is spelled out is a batch norm, however it is spelled; what only looks like one is none."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.capture.recorded import capture_run
from fxmap.model.inputs import as_inputs
from fxmap.testing.planted import randomised

X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))

Formula = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class Frozen(nn.Module):
    """A batch norm by a formula of the value, weight, bias, mean and variance."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, formula: Formula) -> None:
        super().__init__()
        self.formula = formula
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x, self.weight, self.bias, self.running_mean, self.running_var)


def _turned(v: Tensor) -> Tensor:
    return v[None, :, None, None]


def _textbook(x: Tensor, w: Tensor, b: Tensor, m: Tensor, v: Tensor) -> Tensor:
    return (x - _turned(m)) / torch.sqrt(_turned(v) + 1e-5) * _turned(w) + _turned(b)


def _views_last(x: Tensor, w: Tensor, b: Tensor, m: Tensor, v: Tensor) -> Tensor:
    scale = w * (v + 1e-5).rsqrt()
    return x * scale.reshape(1, -1, 1, 1) + (b - m * scale).reshape(1, -1, 1, 1)


def _views_first(x: Tensor, w: Tensor, b: Tensor, m: Tensor, v: Tensor) -> Tensor:
    w, b, m, v = (part.reshape(1, -1, 1, 1) for part in (w, b, m, v))
    scale = w * (v + 1e-5).rsqrt()
    return x * scale + (b - m * scale)


def _powers(x: Tensor, w: Tensor, b: Tensor, m: Tensor, v: Tensor) -> Tensor:
    return _turned(b) + _turned(w / (v + 1e-5) ** 0.5) * (x - _turned(m))


def _deviation(x: Tensor, w: Tensor, b: Tensor, m: Tensor, v: Tensor) -> Tensor:
    return (x - _turned(m)) / (_turned(v).sqrt() + 1e-5) * _turned(w) + _turned(b)


def _shifted_first(x: Tensor, w: Tensor, b: Tensor, m: Tensor, v: Tensor) -> Tensor:
    return ((x + _turned(b)) - _turned(m)) / torch.sqrt(_turned(v) + 1e-5) * _turned(w)


def _net(norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), norm(6), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=False), norm(4)).eval()


@pytest.mark.parametrize("way", ["to frozen", "from frozen"])
@pytest.mark.parametrize("formula", [_textbook, _views_last, _views_first, _powers])
def test_a_frozen_norm_in_any_spelling_is_proven_to_be_a_batch_norm(formula: Formula, way: str) -> None:
    plain, frozen = _net(nn.BatchNorm2d), _net(lambda channels: Frozen(channels, formula))
    src, dst = (plain, frozen) if way == "to frozen" else (frozen, plain)
    randomised(src, 0)
    mapping = fxmap.transfer(src, dst, example_inputs=X)
    assert mapping.proof.ok, str(mapping)
    torch.testing.assert_close(dst(X), src(X))


@pytest.mark.parametrize("formula", [_deviation, _shifted_first])
def test_what_only_looks_like_a_norm_stays_what_it_is(formula: Formula) -> None:
    graph = capture_run(Frozen(3, formula), as_inputs(X)).graph
    assert not [node for node in graph.nodes if "batch_norm" in node.name]
    mapping = fxmap.auto_map(_net(nn.BatchNorm2d), _net(lambda channels: Frozen(channels, formula)), example_inputs=X)
    assert not mapping.proof.ok


@pytest.mark.usefixtures("little_effort")
def test_an_eps_of_another_size_is_a_difference() -> None:
    dst = _net(lambda channels: nn.BatchNorm2d(channels, eps=1e-3))
    mapping = fxmap.auto_map(_net(lambda channels: Frozen(channels, _textbook)), dst, example_inputs=X)
    assert not mapping.proof.ok
    assert "eps" in str(mapping.proof.divergence)


def test_nothing_that_only_the_replaced_operations_read_is_left() -> None:
    captured = capture_run(Frozen(3, _views_last), as_inputs(X))
    assert [node.op for node in captured.graph.nodes].count("call_function") == 2  # the norm, and its first result
    assert sum(node.op == "get_attr" for node in captured.graph.nodes) == 4
