"""Small files that would grow: refused in words, within seconds, before they fill the memory or keep the reader busy."""

import io
import pickle
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxmap
from fxmap.files.checkpoint import open_checkpoint, read
from fxmap.files.limits import Limits
from fxmap.files.pickles import check_pickle


def zipped(path: Path, payload: bytes, **members: bytes) -> Path:
    """Write a file of torch.save with another pickle in it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {"data.pkl": payload, "version": b"3\n", "byteorder": b"little", **members}.items():
            archive.writestr(f"archive/{name}", data)
    return path


def holds_itself() -> Any:
    loop: dict[str, Any] = {}
    loop.update({str(number): loop for number in range(999)})
    return loop


def shared(ways: int, levels: int) -> Any:
    """Return dicts that lead to one tensor along ways ** levels ways."""
    inner: Any = {"weight": torch.zeros(1)}
    for _ in range(levels):
        inner = dict.fromkeys(map(str, range(ways)), inner)
    return inner


def deep() -> Any:
    inner: Any = {"weight": torch.zeros(1)}
    for _ in range(200):
        inner = {"a": inner}
    return inner


def through_a_list() -> Any:
    data: list[Any] = []
    data.append({"state_dict": data})
    return {"a": data}


GROWING: tuple[tuple[Callable[[], Any], str], ...] = (
    (holds_itself, "holds itself"),
    (through_a_list, "holds itself"),
    (deep, "nested deeper than 64"),
    (lambda: shared(10, 30), "entries, counted along every way"),
    (lambda: {"weight": torch.zeros(1).expand(2**40)}, "would become"),
    (lambda: {str(n): torch.zeros(1).expand(2**20) for n in range(100)}, "would become"),
)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("build", "said"), GROWING)
def test_a_file_that_would_grow_is_refused(build: Callable[[], Any], said: str, legacy: bool, tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    torch.save(build(), file, _use_new_zipfile_serialization=not legacy)
    assert file.stat().st_size < 100_000
    start = time.perf_counter()
    with fxmap.file_limits(entries=100_000, free=2**20), pytest.raises(fxmap.CheckpointError, match=said):
        read(file)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(("build", "said"), GROWING[:4])
def test_so_is_a_state_dict_that_is_given(build: Callable[[], Any], said: str) -> None:
    with fxmap.file_limits(entries=100_000), pytest.raises(fxmap.CheckpointError, match=said):
        open_checkpoint(build())


def test_parts_of_a_zip_that_expand_are_refused_unless_that_is_allowed(tmp_path: Path) -> None:
    state = {"weight": torch.zeros(2**18)}
    torch.save(state, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "a.pth", "w") as packed:
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "plain.pth").stat().st_size > 100 * (tmp_path / "a.pth").stat().st_size
    with fxmap.file_limits(free=1000), pytest.raises(fxmap.CheckpointError, match=r"would become 1,\d\d\d,\d\d\d in memory"):
        read(tmp_path / "a.pth")
    assert torch.equal(read(tmp_path / "a.pth")["weight"], state["weight"])  # below what is not asked about
    with fxmap.file_limits(free=1000, expansion=2000):
        assert len(read(tmp_path / "a.pth")) == 1


# As keys of a dict: Python's hash meets the parts of a tuple along every way, by recursion in C.
DEEP_KEY = b"\x80\x02}(" + b")" + b"\x85" * 1_000_000 + b"K\x01u."
WIDE_KEY = b"\x80\x02}(" + b")q\x00" + b"h\x00h\x00\x86q\x00" * 40 + b"K\x01u."


# The magic number, the version and the system.
OLD_START: tuple[Any, ...] = (0x1950A86A20F9469CFC6C, 1001, {})


def test_no_key_overflows_the_stack_or_takes_hours(tmp_path: Path) -> None:
    """In a process of its own, which these ended, or kept busy, before they were looked at first."""
    for name, payload in (("deep", DEEP_KEY), ("wide", WIDE_KEY)):
        zipped(tmp_path / f"{name}.pth", payload)
        (tmp_path / f"old-{name}.pth").write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in OLD_START) + payload)
    script = (
        "import sys, fxmap\n"
        "from fxmap.files.checkpoint import read\n"
        "for name in sys.argv[1:]:\n"
        "    try: read(name)\n"
        "    except fxmap.CheckpointError as error: print('refused' in str(error))\n"
    )
    files = [str(file) for file in sorted(tmp_path.iterdir())]
    done = subprocess.run([sys.executable, "-c", script, *files], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"] * len(files)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "data",
    [
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict(),
        {"rng": (3, tuple(range(625)), None), "args": [{"a": (1, (2, (3,)))}, {4, 5}, frozenset({6})], "big": 2**100},
        {"momentum": {n: [n] for n in range(100)}, b"bytes": "text", 1.5: True, (1, 2): complex(1, 2)},
        torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict(),
    ],
)
def test_usual_pickles_pass(data: Any, protocol: int) -> None:
    stream = io.BytesIO(pickle.dumps(data, protocol=protocol) + b"rest")
    assert check_pickle(stream, Limits())
    assert stream.read() == b"rest"


def test_many_integers_with_equal_hashes_are_refused() -> None:
    flood = b"\x80\x02}(" + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(12_000))
    with pytest.raises(ValueError, match="integers of more than 64 bits"):
        check_pickle(io.BytesIO(flood + b"u."), Limits())


def test_what_is_broken_is_left_to_the_reader() -> None:
    for payload in (b"", b"no pickle", b"\x80\x02}(", b"\x80\x02h\x05.", b"\x80\x02\x85."):
        assert not check_pickle(io.BytesIO(payload), Limits())


def test_limits_hold_within_their_block_alone() -> None:
    with fxmap.file_limits(depth=3), fxmap.file_limits(entries=7) as inner:
        assert (inner.depth, inner.entries) == (3, 7)
    with fxmap.file_limits() as limits:
        assert limits == Limits()
