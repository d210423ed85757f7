"""The command line: what it says, and how it exits."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import fxmap
from fxmap import FxmapError
from fxmap.cli import app as cli
from fxmap.cli import commands
from fxmap.cli.progress import progress, shown
from fxmap.cli.statuses import Exit
from fxmap.model.faults import bounded
from tests.model.test_faults import a_bug


@pytest.fixture(autouse=True)
def _temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the demo's default output be thrown away with the test's own files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def status_of(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    return exit_.value.code


def replace_run(monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> list[Path]:
    """Make the demo record where it would save, and fail with an error."""
    files: list[Path] = []

    def run(file: Path, *_: object) -> None:
        files.append(file)
        if error is not None:
            raise error

    monkeypatch.setattr("fxmap.cli.demo.run.run", run)
    return files


def plain(text: str) -> str:
    """Take out colours, which typer prints wherever it believes to be in a CI."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("--help") == 0
    assert "demo" in capsys.readouterr().out


def test_demo_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("demo", "--help") == 0
    out = plain(capsys.readouterr().out)
    assert "--output" in out
    assert "--force" in out


@pytest.mark.parametrize("arguments", [("nonsense",), ("demo", "--nonsense"), ("demo", "--output")])
def test_a_wrong_command_line_exits_2(arguments: tuple[str, ...]) -> None:
    assert status_of(*arguments) == 2


def test_fxmap_errors_are_one_line_and_exit_3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    replace_run(monkeypatch, FxmapError("fc.weight: the head\n  was replaced"))
    assert status_of("demo") == 3
    out, err = capsys.readouterr()
    assert (out, err) == ("", "fxmap: error: fc.weight: the head was replaced\n")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    replace_run(monkeypatch, ZeroDivisionError())
    assert status_of("demo") == Exit.FAULT
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert "\nZeroDivisionError\nfxmap: error: a fault of fxmap, not of yours: ZeroDivisionError. Please report it" in err


def test_missing_scikit_learn_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    files = replace_run(monkeypatch)
    assert status_of("demo") == 2
    assert capsys.readouterr().err == "fxmap: error: the demo needs scikit-learn: pip install 'fxmap[demo]'\n"
    assert not files


def test_an_existing_float_file_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = replace_run(monkeypatch)
    (tmp_path / "float.pth").write_text("mine")
    assert status_of("demo", "--output", str(tmp_path)) == 2
    assert "--force" in plain(capsys.readouterr().err)
    assert status_of("demo", "--output", str(tmp_path), "--force") == 0
    assert files == [tmp_path / "float.pth"]


def test_an_output_that_cannot_be_a_directory_exits_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = replace_run(monkeypatch)
    file = tmp_path / "file"
    file.write_text("")
    assert status_of("demo", "--output", str(file)) == 2
    assert status_of("demo", "--output", str(file / "below")) == 2
    assert not files


def test_progress_in_a_pipe_is_a_line_for_each_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(patience=0) as tell:
        for step in range(100):
            tell((step + 1) / 100, "training", f"step {step + 1}")
        tell(0, "loading")
    err = capsys.readouterr().err.splitlines()
    assert err == [f"training: step {step}" for step in (1, 25, 50, 75, 100)] + ["loading"]


def test_what_is_done_at_once_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as tell:
        tell(0.5, "training")
    assert capsys.readouterr() == ("", "")


def test_the_stages_of_a_mapping_are_shown_with_the_time_that_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(patience=0) as report, fxmap.progress(shown(report)):
        fxmap.auto_map(nn.Linear(2, 2), nn.Linear(2, 2))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "structure, by symbolic trace"
    assert any(line.startswith("prove, forward pass") for line in lines)


@pytest.mark.parametrize("command", ["map", "convert", "verify", "explain", "diff", "demo"])
def test_help_has_80_columns_and_no_flag_that_asks_for_a_bool(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert status_of(command, "-h") == 0
    out = plain(capsys.readouterr().out)
    assert "<bool>" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_pipe_has_100_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert cli.console().width == 100
    monkeypatch.setenv("COLUMNS", "70")
    assert cli.console().width == 70


def test_python_m_is_the_same_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "fxmap", "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_bug_has_a_status_of_its_own_and_a_traceback_for_the_report(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "auto_map", bounded(a_bug("return ()[1]")))
    with pytest.raises(SystemExit) as ended:
        cli.main(["map", "torch.nn:Linear(3, 2)", "torch.nn:Linear(3, 2)", *words])
    out, err = capsys.readouterr()
    assert ended.value.code == Exit.FAULT
    assert "IndexError: tuple index out of range" in err
    assert "Traceback" in err
    if words:
        assert json.loads(out)["status"] == 5


STATEFUL = """
from torch import nn


class Raising(nn.Linear):
    def state_dict(self, *args, **kwargs):
        raise RuntimeError("no state")


def raising(): return Raising(3, 2)


def looping():
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].owner = model
    return model


def leaving(): raise GeneratorExit
"""


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("raising", r"code of a model raised RuntimeError: no state, at .*net\.py:7"),
        ("looping", r"0\.owner: a module of a Sequential that holds this module itself"),
        ("leaving", r"code of a model raised GeneratorExit"),
    ],
)
def test_what_code_of_a_model_raises_is_no_fault(
    factory: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(STATEFUL)
    assert status_of("map", f"{tmp_path}/net.py:{factory}()", "torch.nn:Linear(3, 2)", "--json") == Exit.REFUSED
    captured = capsys.readouterr()
    assert re.search(words, json.loads(captured.out)["error"])
    assert "Traceback" not in captured.err
