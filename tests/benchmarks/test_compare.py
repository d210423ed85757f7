import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.compare.command import relative_times, result_changes, time_changes


def run(**row: Any) -> dict[str, Any]:
    return {"benchmark": "pairs", "rows": [{"id": "a->b", "way": "plain", "ok": True, "wrong": 0, "seconds": 1.0} | row]}


def test_results_that_got_worse_and_better() -> None:
    changes = {change.what: change.better for change in result_changes(run(), run(ok=False, wrong=3))}
    assert changes == {"ok": False, "wrong": False}
    changes = {change.what: change.better for change in result_changes(run(ok=False, wrong=3), run())}
    assert changes == {"ok": True, "wrong": True}
    assert list(result_changes(run(), run())) == []


def test_a_failure_and_rows_that_come_and_go() -> None:
    (failed,) = result_changes(run(failure=""), run(failure="stopped"))
    assert failed.better is False
    gone, new = result_changes(run(), run(id="c->d"))
    assert (gone.new, new.new) == ("gone", "new")


def test_times_are_compared_within_their_own_run() -> None:
    slow_machine = run(seconds=10.0, seconds_build=5.0)
    assert relative_times(slow_machine) == {("a->b, plain", "seconds"): 2.0}
    assert list(time_changes(run(seconds=2.0, seconds_build=1.0), slow_machine)) == []
    (slower,) = time_changes(run(seconds=2.0, seconds_build=1.0), run(seconds=20.0, seconds_build=5.0))
    assert slower.better is False


def test_command(tmp_path: Path) -> None:
    old, new, bad = (tmp_path / name for name in ("old.json", "new.json", "bad.json"))
    old.write_text(json.dumps(run()))
    new.write_text(json.dumps(run(wrong=1)))
    bad.write_text("[]")
    runner = CliRunner()
    assert runner.invoke(app, ["compare", str(old), str(old)]).exit_code == 0
    worse = runner.invoke(app, ["compare", str(old), str(new)])
    assert worse.exit_code == 1
    assert "0 better, 1 worse" in worse.output
    assert runner.invoke(app, ["compare", str(old), str(bad)]).exit_code == 2
