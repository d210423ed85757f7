"""The examples run, each in an empty folder, and stand in the README's table and in the site's."""

import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PACKAGES = ("timm", "transformers")


@pytest.fixture
def _own_engine() -> object:
    """Put the engine of quantized operators back, which examples choose."""
    engine = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = engine


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("_own_engine")
def test_an_example_runs(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = example.read_text(encoding="utf-8")
    for package in PACKAGES:
        if f"import {package}" in text:
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(example), run_name="__main__")
    out = capsys.readouterr().out
    assert out
    assert "False" not in out


def test_a_mapping_as_json_needs_no_fxmap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = ROOT / "examples/json_without_fxmap.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example)])
    runpy.run_path(str(example), run_name="__main__")
    code = f"import runpy, sys; sys.modules['fxmap'] = None; runpy.run_path({str(example)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, "--train"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "starts where the checkpoint ended: True" in done.stdout


@pytest.mark.parametrize("page", ["README.md", "docs/examples.md"])
def test_a_page_names_every_example(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert len(EXAMPLES) == 6
    assert [example.name for example in EXAMPLES if example.name not in text] == []
