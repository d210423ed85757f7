"""Files: what is read, what is refused, and what wrappers do to keys."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxmap
from fxmap.files.checkpoint import open_checkpoint, read
from fxmap.files.writing import save
from fxmap.model.wrappers import match_prefix


def test_torch_file(tmp_path: Path) -> None:
    torch.save({"state_dict": nn.Linear(2, 2).state_dict(), "epoch": 3}, tmp_path / "a.pth")
    assert list(read(tmp_path / "a.pth")) == ["weight", "bias"]


def test_safetensors_file(tmp_path: Path) -> None:
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "a.safetensors")
    assert set(read(tmp_path / "a.safetensors")) == {"weight", "bias"}


def test_load_from_a_file_in_one_call(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())

    src, dst = build(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    torch.save(src.state_dict(), tmp_path / "float.pth")
    mapping = fxmap.load(dst, tmp_path / "float.pth", src=build())
    assert mapping.proof.ok
    x = torch.randn(1, 3, 8, 8)
    assert torch.allclose(dst.eval()(x), src.eval()(x), atol=1e-6)


def test_a_file_without_a_model_is_guessed(tmp_path: Path) -> None:
    src, dst = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save(src.state_dict(), tmp_path / "a.pth")
    mapping = fxmap.load(dst, tmp_path / "a.pth")
    assert mapping.status("weight") is fxmap.Status.GUESSED
    assert torch.equal(dst.weight, src.weight)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.ones(2), "x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(fxmap.CheckpointError, match="would run code"):
        read(tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", pickle.dumps([1, 2])])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_broken_files_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"broken{suffix}"
    file.write_bytes(content)
    with pytest.raises(fxmap.CheckpointError, match="broken"):
        read(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(fxmap.CheckpointError, match=r"nowhere\.pth: no such file"):
        read(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("data", [{}, [], 3, {"a": 1}, {"state_dict": {}}, {3: torch.ones(1)}])
def test_what_is_no_state_dict_is_refused(data: object) -> None:
    with pytest.raises(fxmap.CheckpointError):
        open_checkpoint(data)  # type: ignore[arg-type]


def test_a_refusal_names_the_globals_and_what_to_do(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2), "x": Evil(), "model": nn.Linear(2, 2)}, tmp_path / "evil.pth")
    with pytest.raises(fxmap.CheckpointError) as caught:
        read(tmp_path / "evil.pth")
    text = str(caught.value)
    assert "refused: it holds more than tensors" in text
    # Python's own print may be spelled by its module.
    assert "print" in text
    assert "torch.nn.modules.linear.Linear" in text
    assert "torch.save(model.state_dict(), path)" in text


def shards(folder: Path, suffix: str) -> Path:
    """Write a linear layer in two files, and return the index."""
    state = nn.Linear(2, 2).state_dict()
    for n, (key, value) in enumerate(state.items()):
        part = {key: value}
        name = folder / f"part-{n}.{suffix}"
        save_file(part, name) if suffix == "safetensors" else torch.save(part, name)
    index = folder / ("model.safetensors.index.json" if suffix == "safetensors" else "pytorch_model.bin.index.json")
    names = {key: f"part-{n}.{suffix}" for n, key in enumerate(state)}
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_checkpoint_in_several_files(tmp_path: Path, suffix: str) -> None:
    dst = nn.Linear(2, 2)
    mapping = fxmap.load(dst, shards(tmp_path, suffix))
    assert mapping.renames == {"weight": "weight", "bias": "bias"}


def test_what_an_index_may_not_say(tmp_path: Path) -> None:
    index = shards(tmp_path, "safetensors")
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(fxmap.CheckpointError, match=r"1 of 2 shards are not beside it: part-1\.safetensors"):
        read(index)
    index.write_text('{"weight_map": {"bias": "part-0.safetensors"}}')
    with pytest.raises(fxmap.CheckpointError, match=r"part-0\.safetensors: lacks bias, which model\."):
        read(index)
    index.write_text('{"weight_map": {"bias": "../secret.bin"}}')
    with pytest.raises(fxmap.CheckpointError, match=r"the shard '\.\./secret\.bin' is not the name of a file beside it"):
        read(index)
    index.write_text("{}")
    with pytest.raises(fxmap.CheckpointError, match="not an index"):
        read(index)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(fxmap.CheckpointError, match=r"no checkpoint; it is an empty folder"):
        read(tmp_path)


def test_weights_are_chosen_and_said(tmp_path: Path) -> None:
    raw, average = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = torch.optim.Adam(raw.parameters())
    raw(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    data = {"model_ema": average.state_dict(), "optimizer": optimizer.state_dict(), "model": raw.state_dict()}
    torch.save(data | {"rng": torch.get_rng_state()}, tmp_path / "a.pth")
    dst = nn.Linear(2, 2)
    mapping = fxmap.load(dst, tmp_path / "a.pth")
    assert torch.equal(dst.weight, raw.weight)
    assert "'model' are used, weights='model_ema' would choose others (model_ema)" in str(mapping)
    fxmap.load(dst, tmp_path / "a.pth", weights="model_ema")
    assert torch.equal(dst.weight, average.weight)
    with pytest.raises(fxmap.CheckpointError, match="no weights named 'teacher'; there are 'model_ema', 'model'"):
        fxmap.load(dst, tmp_path / "a.pth", weights="teacher")


def test_metadata_is_kept(tmp_path: Path) -> None:
    state = nn.BatchNorm1d(2).state_dict()
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    assert read(tmp_path / "a.pth")._metadata == state._metadata  # type: ignore[attr-defined]


def tied() -> dict[str, torch.Tensor]:
    weight = torch.arange(6.0).reshape(2, 3)
    return {"a": weight, "b": weight, "half": weight[:1], "turned": weight.t(), "half precision": weight.half()}


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.pt", "a.bin"])
def test_what_is_saved_is_read_again(tmp_path: Path, name: str) -> None:
    save(tied(), tmp_path / name)
    back = read(tmp_path / name)
    for key, value in tied().items():
        assert torch.equal(back[key], value)
        assert back[key].dtype is value.dtype
    assert (back["a"].data_ptr() == back["b"].data_ptr()) is (name != "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_slice_is_saved_without_the_rest(tmp_path: Path) -> None:
    save({"part": torch.zeros(1_000_000)[:2]}, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").stat().st_size < 10_000


def test_saving_overwrites_only_when_told(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    file.write_text("mine")
    with pytest.raises(fxmap.CheckpointError, match=r"a\.pth: there already, not overwritten"):
        save(tied(), file)
    assert file.read_text() == "mine"
    save(tied(), file, overwrite=True)
    assert set(read(file)) == set(tied())


def test_a_failing_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    file = tmp_path / "a.pth"
    file.write_text("mine")
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(fxmap.CheckpointError, match=r"a\.pth: cannot be written: OSError: no space left"):
        save(tied(), file, overwrite=True)
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_saved_is_said(tmp_path: Path) -> None:
    with pytest.raises(fxmap.CheckpointError, match=r"must end in \.safetensors"):
        save(tied(), tmp_path / "a.txt")
    with pytest.raises(fxmap.CheckpointError, match=r"cannot be written"):
        save(tied(), tmp_path / "nowhere" / "a.pth")
    with pytest.raises(fxmap.CheckpointError, match=r"q is a str, .* plain tensors alone\. Write a \.pth file"):
        save({"q": "text"}, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."])
def test_prefixes_are_stripped_and_added(prefix: str) -> None:
    plain, wrapped = {"a.b": 1}, {f"{prefix}a.b": 1}
    assert match_prefix(wrapped, {"a.b"})[0] == plain
    assert match_prefix(plain, set(wrapped))[0] == wrapped
    assert match_prefix(plain, {"other"})[0] == plain
