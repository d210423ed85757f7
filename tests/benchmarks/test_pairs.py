from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.common.judge import Row
from benchmarks.common.workers import Ended
from benchmarks.pairs import command as pairs
from benchmarks.registry import PAIRS

WITH_FUNCTIONS = "timm:dinov2->transformers:dinov2"


def row(name: str, way: str = "plain", **values: Any) -> Row:
    return Row(name, "family", way, 1.0, **({"hard": False, "same_function": True} | values))


def test_a_pair_counts_once_and_only_if_every_way_of_running_it_is_right() -> None:
    rows = [
        row("a", "forwards", equal=True),
        row("a", "plain", equal=False),
        row("b", equal=True, hard=True),
        row("c", equal=True, missing=1),
        row("d", same_function=False, error=0.5),
        row("e", not_run="ModuleNotFoundError"),
    ]
    lines = pairs.totals(rows)
    assert lines[0] == "pairs: 2 of 3 with equal functions, 2 of 4 with every key right (1 of them for their keys alone)"
    assert lines[1] == "hard pairs: 1 of 1 with equal functions, 1 of 1 with every key right"
    assert "not run: 1" in lines


def test_a_crash_is_a_row_of_the_way_that_was_next() -> None:
    assert [found.way for found in pairs._rows(Ended(WITH_FUNCTIONS, (), "died"))] == ["forwards"]
    first = row(WITH_FUNCTIONS, "forwards")
    rows = pairs._rows(Ended(WITH_FUNCTIONS, (first,), "died"))
    assert [(found.way, found.failure) for found in rows] == [("forwards", ""), ("plain", "died")]
    assert not rows[1].ok


def test_what_is_wrong_is_said() -> None:
    text = pairs.trouble(row("a", error=0.25, wrong_keys=list("abcdefg"), false_proofs=["proof.ok"]))
    assert text == "outputs differ by 2.5e-01; wrong (7): a, b, c, d, e; falsely proven (1): proof.ok"


def test_the_command_runs_what_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def run_all(function: Callable[[str], Iterator[Row]], tasks: Sequence[str], **options: Any) -> Iterator[Ended]:
        asked.update(tasks=tasks, **options)
        for task in tasks:
            pair = PAIRS[task]
            yield Ended(task, (Row(task, pair.family, "plain", pair.params, pair.hard, pair.same_function, equal=True),), "")

    monkeypatch.setattr(pairs, "run_all", run_all)
    file = tmp_path / "pairs.json"
    result = CliRunner().invoke(
        app,
        ["pairs", "--only", "*vit_small,*regnet*", "--hard", "--min-params", "3", "--max-params", "6", "--json", str(file)],
    )
    assert result.exit_code == 0, result.output
    assert asked["tasks"]
    assert all(PAIRS[task].hard and 3 < PAIRS[task].params <= 6 and "regnet" in task for task in asked["tasks"])
    assert asked["tasks"] == sorted(asked["tasks"], key=lambda task: PAIRS[task].params)
    assert '"benchmark": "pairs"' in file.read_text()


def test_bad_options_are_refused(tmp_path: Path) -> None:
    for options in (["--only", "nothing"], ["--group", "other"], ["--packages", str(tmp_path / "absent")]):
        result = CliRunner().invoke(app, ["pairs", *options])
        assert result.exit_code == 2
