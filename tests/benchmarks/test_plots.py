"""Plots are drawn from what benchmarks write, as files that are XML and hold every curve."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.plots.draw import curves, document, shares


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(picture).iter() if element.tag.endswith("text")]


def test_a_plot_of_curves_names_them_and_its_axes() -> None:
    picture = document(
        curves({"a<b": [(10, 0.1), (1000, 7)], "c": [(10, 0.2), (1000, 8)]}, "operations", "seconds", "speed")
    )
    assert {"a<b", "c", "operations", "seconds", "1,000", "0.1"} <= set(texts(picture))
    assert picture.count("<polyline") == 2


def test_shares_end_at_all_of_them() -> None:
    picture = shares({"mapping": [0.1, 0.2, 3.0]}, "seconds", "share")
    root = ElementTree.fromstring(picture)
    (line,) = [element for element in root.iter() if element.tag.endswith("polyline")]
    heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] == 24.0  # the top


def test_the_command_draws_runs_and_refuses_what_is_none(tmp_path: Path) -> None:
    rows = [
        {"kind": "generated", "failure": "", "operations": n, "seconds": {"capture": n / 1e4, "prove": n / 1e3}}
        for n in (1000, 5000)
    ]
    (tmp_path / "speed.json").write_text(json.dumps({"benchmark": "speed", "rows": rows}))
    pairs = [{"ok": True, "seconds": 0.5 + n, "seconds_proof": 1.0, "seconds_build": 2.0} for n in range(3)]
    (tmp_path / "pairs.json").write_text(json.dumps({"benchmark": "pairs", "rows": pairs}))
    arguments = ["plots", str(tmp_path / "speed.json"), str(tmp_path / "pairs.json"), "--folder", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "capture" in texts((tmp_path / "out/speed.svg").read_text())
    assert "building both models" in texts((tmp_path / "out/pairs.svg").read_text())
    (tmp_path / "speed.json").write_text("{}")
    assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize(
    "picture", sorted((Path(__file__).parents[2] / "docs/plots").glob("*.svg")), ids=lambda path: path.stem
)
def test_the_plots_of_the_documentation_are_pictures(picture: Path) -> None:
    assert texts(picture.read_text(encoding="utf-8"))
    assert picture.stat().st_size < 100_000
