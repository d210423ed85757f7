"""Weights that a model computes from several stored tensors: merged into a plain model, taken over, never split."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import fxmap
from fxmap.testing.planted import randomised

Wrap = Callable[[nn.Module], nn.Module]
X = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(0))


def plain(module: nn.Module) -> nn.Module:
    return module


def spectral(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.spectral_norm(module)


def pruned(module: nn.Module) -> nn.Module:
    return prune.random_unstructured(module, "weight", 0.5)


def net(wrap: Wrap, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = (wrap(nn.Conv1d(4, 6, 3)), nn.Tanh(), wrap(nn.ConvTranspose1d(6, 4, 3)), nn.Tanh(), nn.Conv1d(4, 2, 1))
    return nn.Sequential(*layers).eval()


def error(dst: nn.Module, src: nn.Module, x: Tensor = X) -> float:
    with torch.no_grad():
        return float((dst(x) - src(x)).abs().max() / src(x).abs().max())


WRAPS: list[Wrap] = [spectral, nn.utils.parametrizations.spectral_norm, pruned]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("to", ["plain", "itself"])
def test_the_weight_is_computed_or_its_parts_are_taken_over_and_it_is_proven(wrap: Wrap, to: str) -> None:
    src, dst = net(wrap, 1), net(plain if to == "plain" else wrap, 2)
    mapping = fxmap.transfer(src, dst, example_inputs=X)
    assert mapping.proof.ok
    assert error(dst, src) < 1e-6
    assert fxmap.KeyMapping.from_json(mapping.to_json()) == mapping


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_plain_weight_is_not_split(wrap: Wrap) -> None:
    with pytest.raises(fxmap.LoadError, match="which one weight does not determine"):
        fxmap.transfer(net(plain, 1), net(wrap, 2), example_inputs=X)


class Adapted(nn.Module):
    def __init__(self, i: int, o: int, rank: int, scale: float = 2.0) -> None:
        super().__init__()
        self.base, self.scale = nn.Linear(i, o), scale
        self.down, self.up = nn.Linear(i, rank, bias=False), nn.Linear(rank, o, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x) + self.scale * self.up(self.down(x))
        return y


def mlp(layer: Callable[[int, int], nn.Module]) -> nn.Module:
    return nn.Sequential(layer(8, 16), nn.GELU(), layer(16, 6))


def test_an_adapter_is_merged_and_proven() -> None:
    src, dst = randomised(mlp(lambda i, o: Adapted(i, o, 3)), 1).eval(), randomised(mlp(nn.Linear), 2).eval()
    mapping = fxmap.transfer(src, dst)
    assert mapping.proof.ok
    assert error(dst, src, torch.randn(3, 8)) < 1e-5
    assert set(mapping["0.weight"].sources()) == {"0.base.weight", "0.down.weight", "0.up.weight"}


class ScaledInside(Adapted):
    """The same with the strength between the two layers."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x) + (self.scale * (x @ self.down.weight.t())) @ self.up.weight.t()
        return y


def test_the_strength_of_an_adapter_may_stand_between_its_layers() -> None:
    src, dst = randomised(mlp(lambda i, o: ScaledInside(i, o, 3)), 1).eval(), randomised(mlp(nn.Linear), 2).eval()
    x = torch.randn(3, 8)
    assert fxmap.transfer(src, dst, example_inputs=x).proof.ok
    assert error(dst, src, x) < 1e-5


class Recorded(Adapted):
    """The same without biases, in code that cannot be traced: in a recorded graph, rows are viewed as a matrix."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__(i, o, 3)
        self.base = nn.Linear(i, o, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < 0:
            raise ValueError
        return super().forward(x)


def test_an_adapter_is_merged_in_a_recorded_graph_as_well() -> None:
    src = randomised(mlp(Recorded), 1).eval()
    dst = randomised(mlp(lambda i, o: nn.Linear(i, o, bias=False)), 2).eval()
    x = torch.randn(2, 5, 8)
    mapping = fxmap.transfer(src, dst, example_inputs=x)
    assert mapping.knowledge.rungs[0] == "recorded run"
    assert mapping.proof.ok
    assert error(dst, src, x) < 1e-5


def test_a_wrong_strength_of_an_adapter_is_refuted() -> None:
    src, dst = (randomised(mlp(lambda i, o, s=s: Adapted(i, o, 3, s)), 1).eval() for s in (2.0, 3.0))  # type: ignore[misc]
    assert not fxmap.auto_map(src, dst).ok


def test_a_merged_layer_does_not_determine_an_adapter() -> None:
    src, dst = randomised(mlp(nn.Linear), 1).eval(), randomised(mlp(lambda i, o: Adapted(i, o, 3)), 2).eval()
    mapping = fxmap.auto_map(src, dst)
    assert not mapping.ok
    assert {"0.down.weight", "0.up.weight"} <= set(mapping.missing)


def test_two_layers_without_a_bottleneck_stay_two() -> None:
    src, dst = (randomised(mlp(lambda i, o: Adapted(i, o, 20)), seed).eval() for seed in (1, 2))
    mapping = fxmap.transfer(src, dst)
    assert mapping.proof.ok
    assert mapping.renames["0.down.weight"] == "0.down.weight"


class AdaptedConv(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.base = nn.Conv2d(i, o, 3, padding=1)
        self.down, self.up = nn.Conv2d(i, 2, 3, padding=1, bias=False), nn.Conv2d(2, o, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x) + 1.5 * self.up(self.down(x))
        return y


def test_an_adapter_of_a_convolution_is_merged() -> None:
    def net_of(layer: Callable[[int, int], nn.Module]) -> nn.Module:
        return nn.Sequential(layer(3, 8), nn.ReLU(), layer(8, 6))

    src, dst = randomised(net_of(AdaptedConv), 1).eval(), randomised(net_of(lambda i, o: nn.Conv2d(i, o, 3, padding=1)), 2)
    x = torch.randn(2, 3, 9, 9)
    mapping = fxmap.transfer(src, dst.eval(), example_inputs=x)
    assert mapping.proof.ok
    assert error(dst, src, x) < 1e-5
