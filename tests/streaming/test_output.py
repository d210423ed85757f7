"""The folder that a conversion writes: what it may replace, what it may not, and who writes it."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import fxmap
from fxmap.cli.app import app
from fxmap.files.writing import save

MODEL = nn.Linear(4, 4)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    save(MODEL.state_dict(), tmp_path / "work" / "w.pth")
    return tmp_path / "work" / "w.pth"


def convert(source: Path, output: Path | str, **options: Any) -> None:
    fxmap.convert(source, output, dst=nn.Linear(4, 4), **({"verify": False} | options))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def is_model(folder: Path) -> bool:
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("model*.safetensors"):
        found |= load_file(path)
    return found.keys() == {"weight", "bias"} and torch.equal(found["weight"], MODEL.weight)


@pytest.mark.parametrize("layout", ["safetensors", "dcp"])
@pytest.mark.parametrize("foreign", ["thesis.tex", "other.safetensors", "sub/model.safetensors"])
def test_a_folder_with_a_file_of_somebody_else_is_never_replaced(
    foreign: str, layout: str, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(source, out)
    (out / foreign).parent.mkdir(exist_ok=True)
    (out / foreign).write_text("years of work")
    with pytest.raises(fxmap.CheckpointError, match=f"holds {Path(foreign).parts[0]}, which no conversion writes"):
        convert(source, out, overwrite=True, layout=layout)
    assert (out / foreign).read_text() == "years of work"
    assert is_model(out)
    assert names(tmp_path) == ["out", "work"]


def test_a_checkpoint_of_either_layout_is_replaced_by_one_of_the_other(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(source, out, shard_size=1)
    convert(source, out, overwrite=True, layout="dcp")
    assert ".metadata" in names(out)
    convert(source, out, overwrite=True)
    assert names(out) == ["model.safetensors"]
    assert names(tmp_path) == ["out", "work"]


@pytest.mark.parametrize("form", ["a name", "a link to it", "the folder above"])
def test_a_folder_with_the_source_in_it_is_never_replaced(form: str, source: Path, tmp_path: Path) -> None:
    out = {"a name": source.parent, "a link to it": tmp_path / "link", "the folder above": tmp_path}[form]
    if form == "a link to it":
        out.symlink_to("work")
    with pytest.raises(fxmap.CheckpointError, match=r"holds the source, w\.pth"):
        convert(source, out, overwrite=True)
    assert names(source.parent) == ["w.pth"]


def test_the_shards_of_a_checkpoint_are_not_replaced_by_what_is_made_of_them(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "hub", shard_size=1)
    with pytest.raises(fxmap.CheckpointError, match="holds the source"):
        convert(tmp_path / "hub", tmp_path / "hub", overwrite=True)
    assert is_model(tmp_path / "hub")


def test_the_command_line_does_not_replace_the_folder_of_its_source(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    (source.parent / "thesis.tex").write_text("")
    (source.parent / "mine.py").write_text("from torch import nn\ndef model(): return nn.Linear(4, 4)\n")
    result = CliRunner().invoke(app, ["convert", "w.pth", "--dst", "mine:model", "-o", ".", "--force", "--no-proof"])
    assert isinstance(result.exception, fxmap.CheckpointError)
    assert "holds the source, w.pth" in str(result.exception)
    assert {"thesis.tex", "w.pth"} <= set(names(source.parent))


@pytest.mark.parametrize("name", ["new.safetensors", "x.pth", "x.bin", "x.npz", "new2.onnx", "o.h5", "o.xyz", "w.pth"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_name_of_a_file_makes_no_folder(name: str, overwrite: bool, source: Path) -> None:
    before = source.read_bytes()
    with pytest.raises(fxmap.CheckpointError, match=r"the name of a file.*without a suffix.*torch.save"):
        convert(source, source.parent / name, overwrite=overwrite)
    assert names(source.parent) == ["w.pth"]
    assert source.read_bytes() == before


@pytest.mark.parametrize("name", ["llama-3.1", "Qwen2.5-0.5B", "Phi-3.5-mini-instruct"])
def test_versions_in_the_name_of_a_folder_are_no_suffix(name: str, source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / name)
    assert is_model(tmp_path / name)


def test_a_folder_that_has_the_name_of_a_file_can_be_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "new.ckpt").mkdir()
    convert(source, tmp_path / "new.ckpt", overwrite=True)
    assert is_model(tmp_path / "new.ckpt")


@pytest.mark.parametrize("link", [False, True])
def test_a_file_is_not_replaced_by_a_folder(link: bool, source: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    if link:
        (tmp_path / "link").symlink_to("notes")
    with pytest.raises(fxmap.CheckpointError, match="is a file, which is not replaced by a folder"):
        convert(source, tmp_path / ("link" if link else "notes"), overwrite=True)
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(there: bool, source: Path, tmp_path: Path) -> None:
    if there:
        (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    convert(source, tmp_path / "link", overwrite=there)
    assert (tmp_path / "link").is_symlink()
    assert is_model(tmp_path / "real")
    assert names(tmp_path) == ["link", "real", "work"]


@pytest.mark.parametrize("layout", ["safetensors", "dcp"])
def test_every_file_is_on_the_disk_before_the_folder_has_its_name(
    layout: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    named: list[set[int]] = []
    fsync, replace = os.fsync, os.replace

    def seen(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    def renamed(old: Any, new: Any) -> None:
        if Path(new) == tmp_path / "out":
            named.append({os.stat(old).st_ino, *(path.stat().st_ino for path in Path(old).iterdir())} - synced)
        replace(old, new)

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(os, "replace", renamed)
    convert(source, tmp_path / "out", layout=layout, shard_size=1)
    assert named == [set()]
    assert tmp_path.stat().st_ino in synced


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_shard_that_the_disk_does_not_take_is_not_called_finished(
    number: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        kept = "Nothing is left" if number == 1 else "the same call goes on"
        with pytest.raises(fxmap.CheckpointError, match=f"No space left on device.*{kept}"):
            convert(source, tmp_path / "out", shard_size=1)
    assert names(tmp_path) == (["work"] if number == 1 else [".out.partial", "work"])
    convert(source, tmp_path / "out", shard_size=1)
    assert is_model(tmp_path / "out")
    assert names(tmp_path) == ["out", "work"]


@pytest.mark.parametrize("layout", ["safetensors", "dcp"])
def test_another_conversion_into_the_same_folder_is_refused_meanwhile(layout: str, source: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def second() -> None:
        try:
            convert(source, tmp_path / "out")
        except fxmap.CheckpointError as error:
            said.append(str(error))

    def progress(*_: object) -> None:
        if not said:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()

    convert(source, tmp_path / "out", progress=progress, layout=layout)
    assert len(said) == 1
    assert "another conversion writes it now" in said[0]
    assert names(tmp_path) == ["out", "work"]


def test_what_somebody_puts_there_meanwhile_is_not_lost(source: Path, tmp_path: Path) -> None:
    def progress(*_: object) -> None:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "thesis.tex").write_text("")

    for overwrite, reason in ((False, "not overwritten"), (True, r"holds thesis\.tex")):
        (tmp_path / "out").mkdir(exist_ok=True) if overwrite else None
        with pytest.raises(fxmap.CheckpointError, match=reason):
            convert(source, tmp_path / "out", progress=progress, overwrite=overwrite)
        assert names(tmp_path / "out") == ["thesis.tex"]


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, "float16"])
def test_a_dtype_that_is_none_of_floating_point_is_refused(dtype: Any, source: Path, tmp_path: Path) -> None:
    with pytest.raises(fxmap.ArgumentError, match="one of floating point is needed"):
        convert(source, tmp_path / "out", dtype=dtype)
    assert names(tmp_path) == ["work"]


def test_nothing_is_left_where_a_value_does_not_fit_the_dtype(tmp_path: Path) -> None:
    save({"weight": torch.ones(4, 4), "bias": torch.full((4,), 7e4)}, tmp_path / "a.pth")
    with pytest.raises(fxmap.LoadError, match="65504"):
        convert(tmp_path / "a.pth", tmp_path / "out", dtype=torch.float16, shard_size=1)
    assert names(tmp_path) == ["a.pth"]


@pytest.mark.parametrize("name", ["a\0b", "z" * 300, "z" * 250, "work/w.pth/below"])
def test_a_name_that_no_folder_can_have_is_an_error_that_says_so(name: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(fxmap.CheckpointError, match="cannot be written"):
        convert(source, f"{tmp_path}/{name}")
    assert names(tmp_path) == ["work"]
