"""Converting into a folder: whole or not at all, in shards, and on from where it ended."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import fxmap
from fxmap.files.checkpoint import read
from fxmap.streaming import folder

SIZES = [8, 16, 8, 8]


class Source(nn.Module):
    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        pairs = [(nn.Linear(8, size, device=device), nn.Linear(size, 8, device=device)) for size in SIZES]
        self.layers = nn.ModuleList(nn.ModuleList(pair) for pair in pairs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            up, down = layer.children()
            x = x + down(torch.tanh(up(x)))
        return x


class Block(nn.Module):
    def __init__(self, size: int, device: str) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, size, device=device), nn.Linear(size, 8, device=device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Destination(nn.Sequential):
    def __init__(self, device: str = "cpu") -> None:
        super().__init__(*[Block(size, device) for size in SIZES])


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Write a checkpoint in three shards, and return its folder."""
    torch.manual_seed(0)
    state = Source().state_dict()
    where = tmp_path / "hub"
    where.mkdir()
    keys = list(state)
    places = {key: f"model-{1 + 3 * number // len(keys):05d}-of-00003.safetensors" for number, key in enumerate(keys)}
    for name in dict.fromkeys(places.values()):
        part = {key: state[key].bfloat16() for key in keys if places[key] == name}
        save_file(part, where / name, {"format": "pt", "step": "7"})
    (where / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return where


def convert(shards: Path, output: Path, **options: Any) -> fxmap.KeyMapping:
    return fxmap.convert(
        shards, output, src=Source("meta"), dst=Destination("meta"), **({"shard_size": 300, "verify": False} | options)
    )


def test_a_folder_of_shards_becomes_a_folder_of_shards_with_an_index(shards: Path, tmp_path: Path) -> None:
    mapping = convert(shards, tmp_path / "out", verify="required")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted([*set(index["weight_map"].values()), "model.safetensors.index.json"])
    assert len(names) > 3
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in mapping.apply(read(shards)).values())
    dst, src = Destination(), Source()
    src.load_state_dict(read(shards))
    fxmap.load(dst, tmp_path / "out", src=Destination("meta"), verify=False)
    x = torch.randn(2, 8)
    assert torch.equal(dst(x), src(x))
    with safe_open(tmp_path / "out" / names[0], "pt") as file:
        assert file.metadata() == {"format": "pt", "step": "7"}
        assert file.get_tensor(next(iter(file.keys()))).dtype == torch.bfloat16


def test_one_shard_is_a_file_without_index_in_the_dtype_that_was_asked_for(shards: Path, tmp_path: Path) -> None:
    convert(shards, tmp_path / "out", shard_size=10**9, dtype=torch.float16)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in found.values()} == {torch.float16}
    assert found.keys() == Destination("meta").state_dict().keys()


def killed_after(count: int) -> Callable[[int, int, str], None]:
    calls = []

    def progress(*what: object) -> None:
        calls.append(what)
        if len(calls) > count:
            raise KeyboardInterrupt

    return progress


def test_after_a_kill_the_finished_shards_are_taken_over(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(shards, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        convert(shards, tmp_path / "out", progress=killed_after(9))
    assert not (tmp_path / "out").exists()
    written: list[str] = []
    write = folder._write_shard
    monkeypatch.setattr(folder, "_write_shard", lambda *args: written.append(args[1].name) or write(*args))  # type: ignore[func-returns-value]
    mapping = convert(shards, tmp_path / "out")
    count = len(list((tmp_path / "out").glob("*.safetensors")))
    assert 0 < len(written) < count
    assert any(f"{count - len(written)} of {count} shards were finished" in note for note in mapping.knowledge.notes)
    assert_equal_folders(tmp_path / "whole", tmp_path / "out")


def test_shards_that_were_finished_are_still_known_after_a_second_kill(shards: Path, tmp_path: Path) -> None:
    for count in (9, 5):
        with pytest.raises(KeyboardInterrupt):
            convert(shards, tmp_path / "out", progress=killed_after(count))
    mapping = convert(shards, tmp_path / "out")
    assert any("shards were finished by an earlier run" in note for note in mapping.knowledge.notes)


def test_the_lock_of_a_killed_process_hinders_nobody(shards: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert(shards, shards / "out", progress=killed_after(9))
    (shards / ".out.lock").touch()
    mapping = convert(shards, shards / "out")
    assert any("shards were finished by an earlier run" in note for note in mapping.knowledge.notes)
    assert not (shards / ".out.lock").exists()


def assert_equal_folders(one: Path, other: Path) -> None:
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {p.name: p.read_bytes() for p in other.iterdir()}


@pytest.mark.parametrize("damage", ["a changed byte", "another source", "another dtype"])
def test_what_was_finished_and_is_no_longer_right_is_written_anew(damage: str, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert(shards, tmp_path / "out", progress=killed_after(9))
    finished = sorted((tmp_path / ".out.partial").glob("*.safetensors"))
    assert finished
    options: dict[str, Any] = {}
    if damage == "a changed byte":
        data = bytearray(finished[0].read_bytes())
        data[-1] ^= 1
        finished[0].write_bytes(data)
    elif damage == "another source":
        for path in shards.glob("*.safetensors"):
            save_file({key: value + 1 for key, value in load_file(path).items()}, path, {"format": "pt", "step": "7"})
    else:
        options["dtype"] = torch.float32
    convert(shards, tmp_path / "out", **options)
    convert(shards, tmp_path / "whole", **options)
    assert_equal_folders(tmp_path / "whole", tmp_path / "out")


def test_a_missing_shard_and_a_cut_one_are_named_before_anything_is_written(shards: Path, tmp_path: Path) -> None:
    path = shards / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(fxmap.CheckpointError, match="model-00002-of-00003"):
        convert(shards, tmp_path / "out")
    path.unlink()
    with pytest.raises(fxmap.CheckpointError, match="1 of 3 shards are not beside it: model-00002-of-00003"):
        convert(shards, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub"]


def test_numbers_that_a_dtype_cannot_hold_are_named(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    save_file({"weight": torch.tensor([[1.0, 7e4], [0.0, 1.0]]), "bias": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(fxmap.LoadError, match=r"weight: 1 of 4 values .* are beyond 65504, the largest of torch\.float16"):
        fxmap.convert(tmp_path / "a.safetensors", tmp_path / "out", src=model, dst=model, dtype=torch.float16, verify=False)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_named_and_leaves_no_folder(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(fxmap.CheckpointError, match=r"\d\.\d kB are to be written, and 100 B are free"):
        convert(shards, tmp_path / "out")
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "_write_all", full)
    with pytest.raises(fxmap.CheckpointError, match=r"No space left on device.*Nothing is left of it"):
        convert(shards, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_an_output_that_is_there_is_replaced_only_if_that_is_said(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(fxmap.CheckpointError, match="not overwritten"):
        convert(shards, tmp_path / "out")
    assert (tmp_path / "out" / "mine").exists()
    (tmp_path / "out" / "mine").rename(tmp_path / "out" / "model-00001-of-00077.safetensors")
    convert(shards, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "model-00001-of-00077.safetensors").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "out"]


def test_a_folder_of_torch_distributed_checkpoint_is_written_and_read(shards: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    options: dict[str, Any] = {"layout": "dcp", "dtype": torch.float32, "progress": lambda *step: seen.append(step)}
    mapping = convert(shards, tmp_path / "out", **options)
    expected = mapping.apply(read(shards))
    found = read(tmp_path / "out")
    assert all(torch.equal(found[key], value.float()) for key, value in expected.items())
    assert seen[-1][0] == seen[-1][1] == sum(value.numel() * 4 for value in expected.values())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []
    assert fxmap.verify_files(shards, tmp_path / "out", mapping).ok


def test_nothing_is_left_of_a_folder_of_torch_that_cannot_be_made(shards: Path, tmp_path: Path) -> None:
    broken = shards / "model-00002-of-00003.safetensors"

    def cut(done: int, total: int, what: str) -> None:
        broken.write_bytes(broken.read_bytes()[:-10])

    with pytest.raises(fxmap.CheckpointError, match=r"model-00002-of-00003\.safetensors"):
        convert(shards, tmp_path / "out", layout="dcp", progress=cut)
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]
