"""Files appear whole or not at all, under the name and with the rights that are meant, whoever writes beside."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import fxmap
from fxmap.files.atomic import remove_abandoned, whole_file
from fxmap.files.checkpoint import read
from fxmap.files.writing import save

STATE = {"weight": torch.arange(6.0)}

pytestmark = pytest.mark.parametrize("suffix", [".safetensors", ".pth"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o400])
def test_an_overwritten_file_keeps_its_permissions(mode: int, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(b"old")
    file.chmod(mode)
    save(STATE, file, overwrite=True)
    assert stat.S_IMODE(file.stat().st_mode) == mode


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_new_file_has_the_usual_permissions(mask: int, suffix: str, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        save(STATE, tmp_path / f"a{suffix}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / f"a{suffix}").stat().st_mode) == 0o666 & ~mask


def test_a_link_is_followed_and_stays(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link, chain = tmp_path / "there" / "b.anything", tmp_path / f"link{suffix}", tmp_path / f"chain{suffix}"
    link.symlink_to("there/b.anything")
    chain.symlink_to(link.name)
    save(STATE, chain)  # what it leads to is not there yet
    assert link.is_symlink()
    assert chain.is_symlink()
    assert torch.equal(read(link)["weight"], STATE["weight"])
    with pytest.raises(fxmap.CheckpointError, match="there already"):
        save(STATE, link)
    save({"weight": torch.ones(1)}, link, overwrite=True)
    assert link.is_symlink()
    assert not target.is_symlink()
    assert names(tmp_path / "there") == ["b.anything"]


def test_what_is_no_file_is_not_replaced_by_one(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"circle{suffix}").symlink_to(f"circle{suffix}")
    (tmp_path / f"full{suffix}").symlink_to("/dev/full")
    before = names(tmp_path)
    for name in before:
        for overwrite in (False, True):
            with pytest.raises(fxmap.CheckpointError):
                save(STATE, tmp_path / name, overwrite=overwrite)
    assert names(tmp_path) == before
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000 + "b", "nul\0"])
def test_names_that_no_file_can_have_are_refused(name: str, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(fxmap.CheckpointError):
        save(STATE, tmp_path / (name + suffix))
    assert names(tmp_path) == []


def test_the_longest_name_that_a_file_can_have_is_written(suffix: str, tmp_path: Path) -> None:
    save(STATE, tmp_path / ("a" * (255 - len(suffix)) + suffix))
    assert len(names(tmp_path)) == 1


def test_of_many_writers_one_gets_the_name(suffix: str, tmp_path: Path) -> None:
    file, barrier = tmp_path / f"a{suffix}", threading.Barrier(8)
    won: list[int] = []
    lost: list[str] = []

    def write(number: int) -> None:
        with whole_file(file, overwrite=False) as temporary:
            temporary.write_text(str(number))
            barrier.wait()  # all of them saw no such file
        won.append(number)

    def run(number: int) -> None:
        try:
            write(number)
        except fxmap.CheckpointError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 7
    assert all("there already" in text for text in lost)
    assert file.read_text() == str(won[0])
    assert names(tmp_path) == [file.name]


def test_without_links_the_name_is_taken_first(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    save(STATE, tmp_path / f"a{suffix}")
    with pytest.raises(fxmap.CheckpointError, match="there already"):
        save(STATE, tmp_path / f"a{suffix}")
    assert torch.equal(read(tmp_path / f"a{suffix}")["weight"], STATE["weight"])


def break_off(temporary: Path, error: BaseException) -> None:
    temporary.write_text("half")
    raise error


def test_a_failure_leaves_what_was_there(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"a{suffix}"
    save(STATE, file)
    for error, raised in ((OSError("the disk is full"), fxmap.CheckpointError), (KeyboardInterrupt(), KeyboardInterrupt)):
        with pytest.raises(raised), whole_file(file, overwrite=True) as temporary:
            break_off(temporary, error)
    assert torch.equal(read(file)["weight"], STATE["weight"])
    assert names(tmp_path) == [file.name]


def test_what_a_killed_writer_left_is_removed_by_the_next(suffix: str, tmp_path: Path) -> None:
    if suffix != ".pth":
        pytest.skip("a process takes seconds, and this does not depend on the format")
    script = (
        "import os, signal, sys, pathlib; from fxmap.files.atomic import whole_file\n"
        "with whole_file(pathlib.Path(sys.argv[1]), overwrite=False) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / f"b{suffix}")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    with whole_file(tmp_path / f"c{suffix}", overwrite=False) as alive:
        alive.write_text("mine")
        assert remove_abandoned(tmp_path) == [] or len(names(tmp_path)) == 1
        save(STATE, tmp_path / f"a{suffix}")
        assert alive.exists()
    assert names(tmp_path) == [f"a{suffix}", f"c{suffix}"]
