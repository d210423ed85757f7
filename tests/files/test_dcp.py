"""Folders of torch.distributed.checkpoint: read lazily, by region, and without running code."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict_saver import save

import fxmap
from fxmap.files.checkpoint import open_checkpoint, read
from fxmap.files.lazy import LazyTensor

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    state = {"model": model.state_dict(), "optimizer": {"state": {}, "param_groups": []}, "step": 3}
    save(state, checkpoint_id=tmp_path / "dcp", no_dist=True)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    return tmp_path / "dcp"


def test_tensors_and_regions_equal_those_that_were_saved(folder: Path) -> None:
    expected = read(folder.parent / "a.pth")
    found = open_checkpoint(folder, lazy=True)
    assert found.part == "model"
    assert found.state.keys() == expected.keys()
    assert all(isinstance(value, LazyTensor) for value in found.state.values())
    assert all(torch.equal(found.state[key], value) for key, value in expected.items())
    assert torch.equal(found.state["0.weight"][2:5, 1:3], expected["0.weight"][2:5, 1:3])


def test_a_folder_is_loaded_and_converted(folder: Path, tmp_path: Path) -> None:
    dst = nn.Sequential(nn.Identity(), nn.Linear(4, 6), nn.BatchNorm1d(6))
    src = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    fxmap.load(dst, folder, src=src, verify=False)
    assert torch.equal(dst.state_dict()["1.weight"], read(folder)["0.weight"])
    fxmap.convert(folder, tmp_path / "out", src=src, dst=dst, verify=False)
    assert torch.equal(read(tmp_path / "out")["1.weight"], read(folder)["0.weight"])


def test_a_missing_and_a_broken_file_are_named(folder: Path) -> None:
    (file,) = folder.glob("*.distcp")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(fxmap.CheckpointError, match=r"dcp: model\.\S+: cannot be read"):
        read(folder)
    file.unlink()
    with pytest.raises(fxmap.CheckpointError, match=r"1 of 1 files are not there: __0_0\.distcp"):
        read(folder)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


def test_code_in_the_metadata_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(fxmap.CheckpointError, match=r"it wants posix\.mkdir"):
        read(folder)
    assert not (folder / "pwned").exists()
