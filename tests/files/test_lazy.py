"""Lazy tensors: of every format they equal what reading the file gives, and they read their own part alone."""

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fxmap.errors import CheckpointError
from fxmap.expressions.regions import Region
from fxmap.files.checkpoint import open_checkpoint
from fxmap.files.lazy import LazyTensor
from fxmap.files.stored import Stored
from fxmap.files.writing import save


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "w": torch.randn(6, 5),
        "half": torch.randn(3, 4).bfloat16(),
        "scalar": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "transposed": torch.randn(4, 6).t(),
    }


def write_file(path: Path) -> dict[str, torch.Tensor]:
    state = tensors()
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save({"epoch": 3, "state_dict": OrderedDict(state)}, path)
    return state


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_lazy_tensors_of_a_file_equal_those_that_are_read(name: str, tmp_path: Path) -> None:
    state = write_file(tmp_path / name)
    found = open_checkpoint(tmp_path / name, lazy=True).state
    assert list(found) == list(open_checkpoint(tmp_path / name).state)
    for key, value in state.items():
        assert isinstance(found[key], LazyTensor), key
        assert (found[key].shape, found[key].dtype) == (value.shape, value.dtype)
        assert torch.equal(found[key], value), key
    assert torch.equal(found["w"][2:4, 1:3], state["w"][2:4, 1:3])
    assert torch.equal(found["w"][-2:][1:, 3], state["w"][-2:][1:, 3])
    assert torch.equal(found["transposed"][1:, :2], state["transposed"][1:, :2])


def test_a_slice_reads_its_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "a.safetensors")
    read, regions = Stored.read, list[Region]()

    def noted(self: Stored, region: Region) -> torch.Tensor:
        regions.append(region)
        return read(self, region)

    monkeypatch.setattr(Stored, "read", noted)
    lazy = open_checkpoint(tmp_path / "a.safetensors", lazy=True).state["w"]
    assert (lazy[1:3].shape, lazy[4:].dtype, regions) == ((2, 5), torch.float32, [])
    lazy[1:3].sum()
    assert regions == [((1, 3), (0, 5))]


def test_a_lazy_tensor_is_copied_and_pickled_as_a_plain_one(tmp_path: Path) -> None:
    state = write_file(tmp_path / "a.safetensors")
    lazy = open_checkpoint(tmp_path / "a.safetensors", lazy=True).state["w"]
    assert type(copy.deepcopy(lazy)) is torch.Tensor
    torch.save({"w": lazy}, tmp_path / "again.pth")
    assert torch.equal(torch.load(tmp_path / "again.pth", weights_only=True)["w"], state["w"])


def test_a_lazy_tensor_is_not_written_to(tmp_path: Path) -> None:
    write_file(tmp_path / "a.safetensors")
    with pytest.raises(RuntimeError, match="lies in a file cannot be written to"):
        open_checkpoint(tmp_path / "a.safetensors", lazy=True).state["w"].add_(1)


def test_a_file_that_shrinks_after_it_was_opened_is_named(tmp_path: Path) -> None:
    write_file(tmp_path / "a.safetensors")
    state = open_checkpoint(tmp_path / "a.safetensors", lazy=True).state
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data[:-700])
    with pytest.raises(CheckpointError, match=r"a\.safetensors: it was changed while it was read"):
        [value + 0 for value in state.values()]


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_a_cut_file_is_refused_when_it_is_opened(name: str, tmp_path: Path) -> None:
    write_file(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=name):
        open_checkpoint(tmp_path / name, lazy=True)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantized_values_are_rebuilt(name: str, tmp_path: Path) -> None:
    state: dict[str, Any] = {"q": torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 2, torch.qint8), "w": torch.ones(2)}
    save(state, tmp_path / name)
    found = open_checkpoint(tmp_path / name, lazy=True).state
    assert torch.equal(found["q"].int_repr(), state["q"].int_repr())
    assert torch.equal(found["w"], state["w"])


def test_the_metadata_of_a_state_dict_is_kept(tmp_path: Path) -> None:
    for name in ("a.pth", "a.safetensors"):
        save(nn.BatchNorm1d(2).state_dict(), tmp_path / name)
        assert open_checkpoint(tmp_path / name, lazy=True).state._metadata[""]["version"] == 2  # type: ignore[attr-defined]
