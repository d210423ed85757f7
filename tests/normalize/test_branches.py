"""Branches that are trained apart and shipped as their sum, scales by channel, and weights kept as direction and size."""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import fxmap
from fxmap.capture.symbolic import capture_symbolic
from fxmap.graph.opgraph import OpGraph
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status
from fxmap.normalize.network import Network
from fxmap.normalize.rules import branches
from fxmap.testing.planted import randomised

X = torch.randn(2, 3, 9, 9)


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels)


class Branches(nn.Module):
    """Two blocks: a 3x3, a 1x1 and an identity branch with a norm each; or what they come to, one 3x3 layer."""

    def __init__(self, summed: bool, groups: int = 1, scaled: bool = False) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
        self.summed = summed
        self.large = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1, groups=groups, bias=summed) for _ in range(2))
        if not summed:
            self.small = nn.ModuleList(nn.Conv2d(4, 4, 1, groups=groups) for _ in range(2))
            self.norms = nn.ModuleList(nn.ModuleList(_norm(4) for _ in range(3)) for _ in range(2))
            self.scale = nn.ParameterList(nn.Parameter(torch.ones(4, 1, 1)) for _ in range(2)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i in range(2):
            if self.summed:
                y = self.large[i](x)
            else:
                one, two, three = self.norms[i].children()
                y = 0 + one(self.large[i](x)) + two(self.small[i](x))
                y = y + three(x) if self.scale is None else x + self.scale[i] * (y - three(x))
            x = F.relu(y)
        return self.head(x)


def _proven(src: nn.Module, dst: nn.Module, x: Tensor = X) -> KeyMapping:
    src, dst = randomised(src, 0).eval(), randomised(dst, 1).eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=x)
    assert mapping.proof.ok, str(mapping)
    mapping.load_into(dst, src.state_dict())
    assert torch.allclose(src(x), dst(x), atol=1e-5)
    return mapping


@pytest.mark.parametrize(("groups", "scaled"), [(1, False), (4, False), (4, True)])
def test_branches_become_their_sum(groups: int, scaled: bool) -> None:
    mapping = _proven(Branches(False, groups, scaled), Branches(True, groups))
    source = randomised(Branches(False, groups, scaled), 2).state_dict()
    written: dict[str, object] = {}
    exec(mapping.to_python(), written)
    read = KeyMapping.from_json(json.dumps(json.loads(mapping.to_json()))).apply(source)
    assert all(torch.allclose(value, written["convert"](source)[key]) for key, value in read.items())


def test_branches_that_both_have_are_renamed() -> None:
    assert len(_proven(Branches(False), Branches(False)).renames) == len(Branches(False).state_dict())


@pytest.mark.parametrize("change", ["stride", "even", "flipped"])
def test_branches_with_other_windows_are_no_sum(change: str) -> None:
    class Other(Branches):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for i in range(2):
                one, two, _ = self.norms[i].children()
                small = self.small[i](x.flip(-1) if change == "flipped" else x)
                if change == "even":
                    small = F.avg_pool2d(small, 2, 1)
                x = F.relu(one(self.large[i](x))[..., : small.shape[2], : small.shape[3]] + two(small))
            return self.head(x)

    src = Other(False)
    if change == "stride":
        for layer in (*src.large, *src.small):
            layer.stride = (2, 2)
    mapping = fxmap.auto_map(randomised(src, 0), randomised(Branches(True), 1), example_inputs=X)
    assert not mapping.proof.ok
    assert mapping.knowledge.statuses["large.0.weight"] is not Status.PROVEN


class Scaled(nn.Module):
    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 5)
        self.gamma = nn.Parameter(torch.ones(5)) if apart else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.first(x).tanh())
        return x + (y if self.gamma is None else self.gamma * y)


def test_a_scale_by_channel_goes_into_the_layer_before_it() -> None:
    mapping = _proven(Scaled(True), Scaled(False), torch.randn(3, 5))
    assert str(mapping["last.weight"]) == "rows(last.weight) * gamma"


class Heads(nn.Module):
    """Two heads with a norm before each, of which the mean is returned; or what they come to, one layer."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.apart, self.body = apart, nn.Linear(5, 6)
        self.norms = nn.ModuleList(nn.BatchNorm1d(6) for _ in range(2)) if apart else None
        self.heads = nn.ModuleList(nn.Linear(6, 3) for _ in range(2)) if apart else nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).tanh()
        if self.norms is None:
            return self.heads(x)
        one, two = (head(norm(x)) for head, norm in zip(self.heads.children(), self.norms, strict=True))
        return (one + two) / 2


class Both(Heads):
    """Returns each head beside their mean."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        x = self.body(x).tanh()
        one, two = (head(norm(x)) for head, norm in zip(self.heads.children(), self.norms or (), strict=True))
        return (one + two) / 2, one, two


def test_branches_that_the_destination_returns_each_are_no_sum() -> None:
    src, dst = randomised(Heads(True), 0), randomised(Both(True), 1)
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(4, 5))
    assert not mapping.missing
    assert set(mapping.renames) == set(dst.state_dict())


class Kept(Heads):
    """The heads are kept apart, without the norms."""

    def __init__(self) -> None:
        super().__init__(True)
        self.norms = nn.ModuleList(nn.Identity() for _ in range(2))


def test_norms_before_heads_that_stay_apart_go_into_each() -> None:
    _proven(Heads(True), Kept(), torch.randn(4, 5))


def test_norms_before_heads_and_and_their_mean_become_one_layer() -> None:
    _proven(Heads(True), Heads(False), torch.randn(4, 5))


def _convolutions(normed: bool) -> nn.Module:
    layers = [nn.Conv1d(3, 4, 3), nn.ConvTranspose1d(4, 4, 4, 2), nn.Conv1d(4, 2, 1)]
    first, second, third = (weight_norm(layer) if normed else layer for layer in layers)
    return nn.Sequential(first, nn.ELU(), second, nn.ELU(), third)


def test_a_weight_as_direction_and_size_is_one_tensor_and_back() -> None:
    there = _proven(_convolutions(True), _convolutions(False), X[:, :, 0])
    assert str(there["0.weight"]).startswith("weight_norm(")
    back = _proven(_convolutions(False), _convolutions(True), X[:, :, 0])
    assert str(back["0.parametrizations.weight.original0"]) == "|0.weight|"


def test_a_chain_of_products_is_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scales = nn.ParameterList([nn.Parameter(torch.ones(4)) for _ in range(60)])
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.scales[0]
            for scale in list(self.scales)[1:]:
                y = y * scale
            out: Tensor = self.layer(x) * y
            return out

    ops = Network.of(capture_symbolic(Scaled())).ops
    asked: list[str] = []
    affine = branches._affine

    def noted(graph: OpGraph, name: str, known: Any) -> Any:
        asked.append(name)
        return affine(graph, name, known)

    monkeypatch.setattr(branches, "_affine", noted)
    branches.count_branches(ops)
    assert 60 <= len(asked) == len(set(asked))
