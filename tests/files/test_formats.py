"""Formats: one entry each, found by the names of files, and written whole or not at all."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxmap
from fxmap.files import reading, writing
from fxmap.files.checkpoint import read
from fxmap.files.format import CannotHold, Format, read_as
from fxmap.files.formats import FORMATS
from fxmap.files.writing import save


def _write_lines(state: Mapping[str, Any], path: Path) -> None:
    if any(value.dim() for value in state.values()):
        raise CannotHold("a tensor has more than one number")
    path.write_text("".join(f"{key} {value.item()}\n" for key, value in state.items()))


def _read_lines(path: Path) -> dict[str, Any]:
    pairs = (line.split() for line in path.read_text().splitlines())
    return {key: torch.tensor(float(value)) for key, value in pairs}


LINES = Format("lines", (".lines",), "single numbers", _read_lines, _write_lines)


@pytest.fixture
def _with_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reading, writing):
        monkeypatch.setattr(module, "FORMATS", (LINES, *FORMATS))


@pytest.mark.usefixtures("_with_lines")
def test_a_new_format_is_one_entry(tmp_path: Path) -> None:
    file = tmp_path / "a.lines"
    save({"scale": torch.tensor(2.5)}, file)
    assert read(file) == {"scale": torch.tensor(2.5)}
    with pytest.raises(fxmap.CheckpointError, match=r"a\.txt: the name must end in \.lines, \.safetensors, \.pt, "):
        save({}, tmp_path / "a.txt")


@pytest.mark.usefixtures("_with_lines")
def test_what_a_format_cannot_hold_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(fxmap.CheckpointError, match=r"a\.lines: a tensor has more than one number"):
        save({"weight": torch.zeros(2)}, tmp_path / "a.lines")
    assert not list(tmp_path.iterdir())


def test_which_names_are_written_is_said_as_before(tmp_path: Path) -> None:
    with pytest.raises(fxmap.CheckpointError, match=r"must end in \.safetensors, \.pt, \.pth or \.bin, which"):
        save({}, tmp_path / "model.index.json")


@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        ("model.safetensors", "safetensors"),
        ("model.safetensors.index.json", "index of shards"),
        ("pytorch_model.bin.index.json", "index of shards"),
        ("model.bin", "torch.save"),
        ("last.ckpt", "torch.save"),
        ("checkpoint", "torch.save"),
    ],
)
def test_a_file_is_read_by_the_first_format_that_recognises_it(name: str, file_format: str) -> None:
    assert next(each.name for each in FORMATS if each.recognises(Path(name))) == file_format


def test_names_of_formats_and_their_suffixes_are_their_own() -> None:
    suffixes = [suffix for each in FORMATS for suffix in each.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert len({each.name for each in FORMATS}) == len(FORMATS)
    assert all(each.holds in str(each) for each in FORMATS)


def test_no_format_for_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(fxmap.CheckpointError, match="of no format that is known here"):
        read_as(tmp_path / "a.pth", [LINES])


def test_what_is_written_has_the_usual_rights(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for name in ("a.pth", "a.safetensors"):
            save(nn.Linear(2, 2).state_dict(), tmp_path / name)
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "a.pth"
    file.write_text("mine")
    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(nn.Linear(2, 2).state_dict(), file, overwrite=True)
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]
