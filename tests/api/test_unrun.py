"""Inputs on which a model does not run are named first, and not taken for another network or a replaced head."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap


class Joined(nn.Module):
    """Attention with one layer for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.head = nn.Embedding(16, 8), nn.Linear(8, 24), nn.Linear(8, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(self.embed(tokens)).chunk(3, -1)
        out: Tensor = self.head(torch.softmax(q @ k.transpose(1, 2), -1) @ v)
        return out


class Apart(nn.Module):
    """The same with three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.tok, self.lm = nn.Embedding(16, 8), nn.Linear(8, 16)
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok(tokens)
        out: Tensor = self.lm(torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1) @ self.v(x))
        return out


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (torch.randn(1, 6), r"example_inputs \(float32 \[1, 6\]\): the source does not run on it: Joined.*self\.embed"),
        (torch.full((1, 6), 99), r"example_inputs \(int64 \[1, 6\]\).*index out of range.*Correct example_inputs"),
    ],
)
def test_tokens_that_no_model_takes_are_no_replaced_head(inputs: Tensor, words: str) -> None:
    with pytest.raises(fxmap.ArgumentError, match=words) as caught:
        fxmap.load(Apart(), Joined().state_dict(), src=Joined(), example_inputs=inputs)
    assert "num_classes" not in str(caught.value)


def test_models_without_numbers_refuse_them_as_well() -> None:
    with torch.device("meta"):
        src, dst = Joined(), Apart()
    with pytest.raises(fxmap.ArgumentError, match="Correct example_inputs"):
        fxmap.load(dst, Joined().state_dict(), src=src, example_inputs=torch.randn(1, 6), assign=True, verify=False)


def _net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()


@pytest.mark.parametrize("as_file", [True, False])
def test_a_shape_that_the_graph_does_not_declare_is_an_error(tmp_path: Path, as_file: bool) -> None:
    source: Any = torch.export.export(_net(), (torch.randn(2, 3, 8, 8),))
    if as_file:
        torch.export.save(source, tmp_path / "net.pt2")
        source = tmp_path / "net.pt2"
    with pytest.raises(fxmap.ArgumentError, match=r"exported for the shape \[2, 3, 8, 8\].*leave it out") as caught:
        fxmap.load(_net(), source, example_inputs=torch.randn(2, 1, 8, 8))
    assert "torch.fx" not in str(caught.value)


@pytest.mark.parametrize("build", [lambda: nn.Linear(3, 4), lambda: nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 7))])
def test_another_network_than_the_graph_s_is_called_that(build: Any) -> None:
    source = torch.export.export(_net(), (torch.randn(2, 3, 8, 8),))
    with pytest.raises(fxmap.DifferentNetworks, match="these two are different networks: no layer") as caught:
        fxmap.load(build(), source)
    assert "num_classes" not in str(caught.value)
    assert "those that were given" not in str(caught.value)


def test_what_the_user_keeps_knowingly_is_said_before_the_outputs() -> None:
    def net(classes: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, classes)).eval()

    words = r"^all but the 2 keys that the destination keeps \(2\.weight, 2\.bias\) is proven: "
    with pytest.warns(fxmap.ProofWarning, match=words):
        fxmap.load(net(5), net(3).state_dict(), src=net(3), on_mismatch="keep")


def test_a_source_model_beside_a_graph_is_to_be_left_out(tmp_path: Path) -> None:
    for source in (torch.export.export(_net(), (torch.randn(2, 3, 8, 8),)), tmp_path / "net.onnx"):
        with pytest.raises(fxmap.ArgumentError, match=r"^leave src= out: .* carries its graph"):
            fxmap.load(_net(), source, src=_net())


class _Reading(nn.Module):
    """A model that looks at a number, for which one of the meta device has none."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Linear(4, size))

    def forward(self, x: Tensor) -> Any:
        return self.get_submodule(self.name)(x) if float(x.sum()) < 1e9 else x


def test_inputs_of_the_meta_device_for_models_with_numbers_are_no_fault() -> None:
    dst = _Reading("b", 5)
    before = dst.get_parameter("b.weight").detach().clone()
    with pytest.raises(fxmap.FxmapError) as caught:
        fxmap.transfer(_Reading("a", 3), dst, example_inputs=torch.empty(2, 4, device="meta"))
    assert not isinstance(caught.value, fxmap.InternalError)
    assert torch.equal(dst.get_parameter("b.weight"), before)
