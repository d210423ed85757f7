"""The scale benchmark, on a checkpoint of a few kilobytes."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale.command import _print, sizes_of
from benchmarks.scale.measure import TASKS, convert, load, write_both

SMALL = {"layers": 2, "width": 32, "heads": 2, "groups": 2, "hidden": 48, "vocabulary": 50}


def test_sizes_are_about_those_that_were_asked_for() -> None:
    assert 0.85e9 < 4 * (16 * 13 * sizes_of(1.0)["width"] ** 2 + 2 * 8192 * sizes_of(1.0)["width"]) <= 1e9


def test_a_checkpoint_is_loaded_and_converted_in_both_ways(tmp_path: Path) -> None:
    write_both(tmp_path, SMALL)
    for device in ("meta", "cpu"):
        load(device, tmp_path, SMALL)
    for name in ("plain", "joined"):
        assert convert(name, tmp_path, SMALL)["bytes_a_second"] > 0
        assert (tmp_path / f"out-{name}" / "model.safetensors").is_file()


def test_the_table_says_how_much_of_cp_a_conversion_reaches(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {"task": "cp", "seconds": 1.0, "model_mb": 100},
        {"task": "convert, renames alone", "seconds": 9.0, "peak_mb": 12, "model_mb": 100, "bytes_a_second": 80 * 2**20},
        {"task": "2 ranks", "seconds": 9.0, "peak_mb": 1, "model_mb": 100}
        | {"ranks": [{"seconds": 2.0, "peak_mb": 70, "held_mb": 50}, {"seconds": 3.0, "peak_mb": 60, "held_mb": 50}]},
    ]
    _print(rows)
    out = " ".join(capsys.readouterr().out.split())
    assert "80%" in out
    assert "2 ranks" in out
    assert set(TASKS) >= {"load into memory", "4 ranks"}
