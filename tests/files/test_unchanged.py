"""What was read stays as it was read, whatever is done to the file; and a file that changes meanwhile is refused."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fxmap
from fxmap.files.checkpoint import open_checkpoint, read
from fxmap.files.format import Format, read_as
from fxmap.files.writing import save

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool, torch.complex64)


def state() -> dict[str, Any]:
    made = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in DTYPES}
    return made | {"empty": torch.zeros(0, 4), "number": torch.tensor(3.5), "large": torch.arange(100_000)}


def overwrite(file: Path) -> None:
    """Write other numbers into the file, where it is."""
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(b"\xff" * (file.stat().st_size // 2))


def cut(file: Path) -> None:
    os.truncate(file, 10)


@pytest.mark.parametrize("harm", [overwrite, cut, Path.unlink])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_nothing_that_is_done_to_a_file_changes_what_was_read(
    suffix: str, harm: Callable[[Path], object], tmp_path: Path
) -> None:
    file, expected = tmp_path / f"a{suffix}", state()
    save(expected, file)
    found = read(file)
    harm(file)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


def test_a_file_that_is_cut_does_not_end_the_process(tmp_path: Path) -> None:
    """In a process of its own: numbers that were mapped to the file ended it by SIGBUS."""
    save({"a": torch.ones(3_000_000)}, tmp_path / "a.safetensors")
    script = (
        "import os, sys; from fxmap.files.checkpoint import read; found = read(sys.argv[1])\n"
        "os.truncate(sys.argv[1], 100); print(found['a'].sum().item())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.safetensors")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "3000000.0")


@pytest.mark.parametrize("harm", [overwrite, cut, Path.unlink])
def test_a_file_that_changes_while_it_is_read_is_refused(harm: Callable[[Path], object], tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    file.write_bytes(bytes(1000))
    os.utime(file, (1, 1))
    late = Format("late", (".pth",), "a writer beside the reader", read=lambda path: [harm(path)])
    with pytest.raises(fxmap.CheckpointError, match=r"while it was read|since it was opened"):
        read_as(file, [late])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_name_that_is_not_utf_8_can_be_read_back(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    for file in (folder / f"a{suffix}", tmp_path / (os.fsdecode(b"m\xe9del") + suffix)):
        save(state(), file)
        assert torch.equal(open_checkpoint(file).state["large"], state()["large"])
