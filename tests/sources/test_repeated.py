"""Biases that an exporter looked up in tables beforehand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.sources.onnx.spellings.repeated import first_places
from fxmap.sources.onnx.spellings.roles import is_weight
from fxmap.testing.planted import randomised

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


class Windowed(nn.Module):
    """Attention with a bias for each difference of two positions, of which there are fewer than pairs of positions."""

    def __init__(self, persistent: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.table = nn.Parameter(torch.zeros(11, 2))
        places = torch.arange(6)[:, None] - torch.arange(6)[None, :] + 5
        self.register_buffer("places", places, persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        bias = self.table[self.places.flatten()].view(6, 6, 2).permute(2, 0, 1)
        scores = (q @ k.transpose(-2, -1)) * 0.5 + bias
        out: Tensor = self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return out


def _windowed(seed: int, persistent: bool) -> nn.Module:
    model = Windowed(persistent)
    places = model.places.clone()
    randomised(model, seed)
    model.places = places
    return model.eval()


X = torch.randn(2, 6, 8)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_table_is_made_of_the_bias_that_was_looked_up_in_it_and_is_proven(
    dynamo: bool, persistent: bool, tmp_path: Path
) -> None:
    src, dst = _windowed(1, persistent), _windowed(2, persistent)
    options: Mapping[str, Any] = {"verbose": False} if dynamo else {}
    torch.onnx.export(src, (X,), str(tmp_path / "a.onnx"), dynamo=dynamo, **options)
    mapping = fxmap.load(dst, tmp_path / "a.onnx")
    assert mapping.ok, mapping.proof.reason
    assert torch.allclose(dst.state_dict()["table"], src.state_dict()["table"])


def test_integers_that_the_source_makes_and_the_destination_keeps_are_no_gap() -> None:
    mapping = fxmap.transfer(_windowed(1, False), dst := _windowed(2, True), example_inputs=X)
    assert mapping.ok, mapping.proof.reason
    assert "places" not in mapping
    assert "places" in dst.state_dict()


def test_other_integers_of_the_destination_are_refuted() -> None:
    other = _windowed(2, True)
    other.places = other.places.flip(1)
    assert not fxmap.auto_map(_windowed(1, False), other, example_inputs=X).ok


@pytest.mark.parametrize(
    ("value", "is_table"),
    [
        (torch.randn(2, 3)[:, torch.randint(0, 3, (4, 5))], True),
        (torch.randn(1, 40, 3)[:, torch.randint(0, 40, (200,))], True),
        (torch.randn(2, 6, 6), False),
        (torch.zeros(2, 6, 6), False),
        (torch.ones(3), False),
        (torch.zeros(2, 0, 6), False),
    ],
)
def test_a_table_is_told_by_numbers_that_stand_at_several_places(value: Tensor, is_table: bool) -> None:
    places = first_places(value)
    assert (places is not None) == is_table
    assert places is None or torch.equal(value.flatten()[places], value)


def test_one_number_that_fills_a_part_is_no_weight_unless_it_has_a_name() -> None:
    roles = {("ScatterND", 2)}
    assert not is_weight("val_12", torch.full((3, 4), 2.0), roles)
    assert is_weight("token", torch.full((3, 4), 2.0), roles)
    assert is_weight("val_12", torch.randn(3, 4), roles)
    assert is_weight("val_12", torch.full((3, 4), 2.0), {("Mul", 1)})
