"""What the dynamo exporter computes of tables and shared matrices beforehand, back into the model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.errors import LoadError
from fxmap.mapping.proof import Status
from fxmap.sources.onnx.spellings.twins import twins
from fxmap.testing.planted import randomised

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")


class Shared(nn.Module):
    """One layer that is called twice, between an embedding and a head of the same matrix, with a table of positions."""

    def __init__(self, positions: int = 0) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(20, 8), nn.Linear(8, 8)
        self.norm, self.places = nn.LayerNorm(8), nn.Embedding(positions, 8) if positions else None
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        x = x if self.places is None else x + self.places(torch.arange(ids.shape[1])[None])
        x = x + self.layer(x).tanh()
        out: Tensor = self.head(self.norm(x + self.layer(x).tanh()))
        return out


IDS = torch.randint(0, 20, (1, 5))


def exported(folder: Path, **options: Any) -> tuple[nn.Module, nn.Module, Path]:
    src, dst = (randomised(Shared(**options), seed).eval() for seed in (1, 2))
    torch.onnx.export(src, (IDS,), str(folder / "a.onnx"), dynamo=True, verbose=False)
    return src, dst, folder / "a.onnx"


def test_a_shared_matrix_that_the_file_holds_several_times_is_one_and_proven(tmp_path: Path) -> None:
    src, dst, path = exported(tmp_path)
    mapping = fxmap.load(dst, path)
    assert mapping.ok, mapping.proof.reason
    assert all(torch.equal(value, dst.state_dict()[key]) for key, value in src.state_dict().items())


def test_a_table_that_the_file_holds_in_part_is_refused_with_the_rows_that_it_lacks(tmp_path: Path) -> None:
    _, dst, path = exported(tmp_path, positions=12)
    before = dst.state_dict()["places.weight"].clone()
    with pytest.raises(LoadError, match=r"rows 5:12 of places.weight are not in the source.* on_mismatch=\"keep\""):
        fxmap.load(dst, path)
    assert torch.equal(dst.state_dict()["places.weight"], before)


def test_a_table_that_the_file_holds_in_part_is_filled_so_far_and_the_rest_is_proven(tmp_path: Path) -> None:
    src, dst, path = exported(tmp_path, positions=12)
    before = dst.state_dict()["places.weight"].clone()
    mapping = fxmap.load(dst, path, on_mismatch="keep")
    statuses = mapping.proof.statuses
    assert not mapping.ok
    assert "rows 5:12 of places.weight" in mapping.proof.reason
    assert statuses.pop("places.weight") is Status.MISMATCHED
    assert all(one.is_proven for one in statuses.values())
    table = dst.state_dict()["places.weight"]
    assert torch.equal(table[:5], src.state_dict()["places.weight"][:5])
    assert torch.equal(table[5:], before[5:])
    assert torch.equal(src(IDS), dst(IDS))
    assert fxmap.KeyMapping.from_json(mapping.to_json()).knowledge.mismatched == mapping.knowledge.mismatched


class Masked(nn.Module):
    """A mask of positions that nobody gave, which is made of ones and multiplied, and one that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm, self.fc = nn.Embedding(20, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        mask = torch.ones(ids.shape, dtype=torch.long)
        x = self.norm(self.words(ids)) * mask[:, :, None].to(torch.float32)
        later = torch.ones(ids.shape[1], ids.shape[1]).triu(1) * -1e9
        out: Tensor = self.fc((x @ x.transpose(1, 2) + later).softmax(-1) @ x)
        return out


@pytest.mark.parametrize("dynamo", [False, True])
def test_masks_that_an_exporter_made_are_no_weights(dynamo: bool, tmp_path: Path) -> None:
    src, dst = (randomised(Masked(), seed).eval() for seed in (1, 2))
    options: dict[str, Any] = {"verbose": False} if dynamo else {}
    torch.onnx.export(src, (IDS,), str(tmp_path / "a.onnx"), dynamo=dynamo, **options)
    mapping = fxmap.load(dst, tmp_path / "a.onnx")
    assert mapping.ok, mapping.proof.reason
    assert not mapping.unexpected


def test_matrices_that_nothing_has_trained_and_those_that_the_code_names_are_not_one() -> None:
    table = torch.arange(6.0).view(3, 2)
    assert twins({"a.weight": table, "b.weight": table, "val_1": torch.zeros(3, 2), "val_2": torch.zeros(3, 2)}) == {}
