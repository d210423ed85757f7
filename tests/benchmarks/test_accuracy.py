import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from torch import Tensor
from typer.testing import CliRunner

import fxmap
from benchmarks.__main__ import app
from benchmarks.accuracy import command, made, run
from benchmarks.accuracy.cases import NAMES, RANDOM, Case, cases
from benchmarks.accuracy.mappers import MAPPERS, Mapper, copied
from benchmarks.accuracy.page import write_page
from benchmarks.accuracy.problems import Answer, FormProblem, PairProblem, Problem
from benchmarks.accuracy.run import NOT_INSTALLED, Row, run_mappers
from benchmarks.accuracy.totals import ahead, totals
from benchmarks.common.workers import Ended
from benchmarks.names.data import NamedPair

TREE = [("a.weight", [2, 3], "torch.float32"), ("a.bias", [2], "torch.float32")]
NAMED = NamedPair("a->b", "easy", TREE, [(k.replace("a", "b", 1), s, d) for k, s, d in TREE], [0, 1], [])


@pytest.fixture
def problem() -> PairProblem:
    return made.residual_problem(2, 0)


def truth_of(problem: Problem) -> dict[str, Tensor]:
    assert isinstance(problem, PairProblem)
    assert problem.case.truth is not None
    return problem.case.truth


def swapped(problem: Problem) -> Answer:
    """Claim to be certain of a mapping in which two biases are exchanged."""
    truth = dict(truth_of(problem))
    truth["b0"], truth["f1"] = truth["f1"], truth["b0"]
    return Answer(truth, equal=True, certain=frozenset(truth))


def hangs(problem: Problem) -> Answer:
    end = time.process_time() + 60
    while time.process_time() < end:
        pass
    return Answer({})


def refuses(problem: Problem) -> NoReturn:
    raise ZeroDivisionError("no")


FAKES = {
    "right": Mapper(lambda problem: Answer(truth_of(problem))),
    "half": Mapper(lambda problem: Answer({k: v for k, v in truth_of(problem).items() if k.endswith("0")})),
    "swapped": Mapper(swapped),
    "refuses": Mapper(refuses),
    "absent": Mapper(swapped, needs=("a_package_that_nobody_has",)),
    "hangs": Mapper(hangs),
}


def test_mappers_are_judged_by_the_same_truth_each_in_its_own_process(
    problem: PairProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "MAPPERS", FAKES)
    monkeypatch.setattr(run, "_MORE_SECONDS", 0.5)
    rows = {row.mapper: row for row in run_mappers(Case("tiny", RANDOM, 0, lambda: problem), tuple(FAKES), 1.0)}
    counts = {name: (row.right, row.wrong, row.missing, row.equal) for name, row in rows.items()}
    assert counts == {
        "right": (14, 0, 0, True),
        "half": (7, 0, 7, False),
        "swapped": (12, 2, 0, False),
        "refuses": (0, 0, 14, False),
        "absent": (0, 0, 14, False),
        "hangs": (0, 0, 14, False),
    }
    assert rows["swapped"].claim
    assert rows["swapped"].false_claims == ("function", "b0", "f1")
    assert rows["refuses"].failure == "ZeroDivisionError: no"
    assert rows["absent"].failure == NOT_INSTALLED
    assert "stopped after 1.5 s" in rows["hangs"].failure


def test_fxmap_itself_and_the_peers_that_need_no_package(problem: PairProblem) -> None:
    names = ("fxmap", "fxmap, no proof", "fxmap, names alone", "exact names", "torch.ao.ns graph matcher")
    rows = {row.mapper: row for row in run_mappers(Case("tiny", RANDOM, 0, lambda: problem), names, 60)}
    assert rows["fxmap"].right == 14
    assert rows["fxmap"].claim
    assert rows["fxmap"].false_claims == ()
    assert rows["fxmap, no proof"].equal
    assert rows["exact names"].missing == 14
    assert all(row.seconds is not None and row.peak_mb >= 0 for row in rows.values())


def test_key_trees_alone_are_asked_of_those_who_need_no_model() -> None:
    rows = list(run_mappers(Case("names", NAMES, 0, lambda: NAMED), ("fxmap", "fxmap, names alone", "exact names"), 60))
    assert {row.mapper: (row.right, row.missing, row.equal) for row in rows} == {
        "fxmap, names alone": (2, 0, None),
        "exact names": (0, 2, None),
    }


def test_a_case_that_cannot_be_built_is_said() -> None:
    def absent() -> NoReturn:
        raise ModuleNotFoundError("No module named 'absent'")

    (row,) = run_mappers(Case("absent", RANDOM, 0, absent), ("fxmap",), 60)
    assert row.not_run == "ModuleNotFoundError: No module named 'absent'"
    assert totals([row]) == {}
    assert "not run: absent: ModuleNotFoundError: No module named 'absent'" in command.remarks([row])


@pytest.mark.parametrize("build", [lambda: made.planted_problem(3, 8), lambda: made.tokens_problem(3)])
def test_what_is_made_has_the_truth_that_is_said(build: Callable[[], PairProblem]) -> None:
    problem = build()
    assert not problem.judge({}).equal
    verdict = problem.judge(truth_of(problem))
    assert verdict.equal
    assert (verdict.wrong, verdict.missing) == ((), ())


def test_a_partial_match_is_judged_by_what_has_a_source() -> None:
    problem = dict(made.partial_problems())["vit, first 4 of 6 layers, renamed"]()
    assert problem.judge(truth_of(problem)).equal
    assert len(truth_of(problem)) < len(problem.src.state_dict())


def test_a_form_is_judged_bit_by_bit() -> None:
    problem = FormProblem("shufflenet_v2_x0_5", "quantizable")
    right = copied(problem, {key: key for key in problem.dst.state_dict()})
    right["conv1.0.weight"] = right["conv1.0.weight"] * 1.5
    verdict = problem.judge(right)
    assert verdict.wrong == ("conv1.0.weight",)
    assert not verdict.equal


def test_a_peer_that_is_ahead_is_named() -> None:
    rows = [
        Row("g", "c", "fxmap", keys=4, right=3, wrong=1, equal=False),
        Row("g", "c", "better", keys=4, right=4, equal=True),
        Row("g", "c", "bolder", keys=6, right=4, wrong=2, equal=False),
    ]
    assert ahead(rows) == ["better on g: 4 right, 0 wrong; 3, 1", "better on g: 1 functions equal; 0"]


def test_the_page_holds_every_group_and_needs_nothing_else(tmp_path: Path) -> None:
    rows = [
        Row("first <group>", "case", "fxmap", 4, 4, 4, equal=True, claim=True, seconds=0.5),
        Row("first <group>", "case", "lit-wsl", 4, 4, 1, wrong=3, equal=False, seconds=2.0, false_claims=("function",)),
    ]
    write_page(tmp_path / "page.html", rows, {"command": "python -m benchmarks accuracy", "remarks": ["not installed: x"]})
    text = (tmp_path / "page.html").read_text()
    assert "first &lt;group&gt;" in text
    assert "not installed: x" in text
    assert text.count("<svg") == 2
    assert "src=" not in text
    assert "href=" not in text


def test_a_run_is_shown_again_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_all(function: Callable[[str], Iterator[Row]], tasks: Sequence[str], **options: Any) -> Iterator[Ended]:
        assert options["nested"]
        for task in tasks:
            yield Ended(task, tuple(function(task)), "")

    monkeypatch.setattr(command, "run_all", run_all)
    file, page = tmp_path / "run.json", tmp_path / "page.html"
    options = ["accuracy", "--only", "residual 0", "--mappers", "fxmap, names alone; exact names", "--json", str(file)]
    result = CliRunner().invoke(app, options)
    assert "random networks: keys of 1 cases" in result.output
    data = json.loads(file.read_text())
    assert data["benchmark"] == "accuracy"
    assert data["date"]
    assert [row["mapper"] for row in data["rows"]] == ["fxmap, names alone", "exact names"]
    shown = CliRunner().invoke(app, ["accuracy", "--read", str(file), "--html", str(page)])
    assert "random networks: keys of 1 cases" in shown.output
    assert page.exists()


def test_bad_options_are_refused(tmp_path: Path) -> None:
    for options in (["--only", "nothing"], ["--mappers", "nobody"], ["--json", str(tmp_path / "absent" / "x.json")]):
        assert CliRunner().invoke(app, ["accuracy", *options]).exit_code == 2


def test_every_group_has_cases_in_every_kind_of_run() -> None:
    found = cases()
    for level in range(3):
        assert len({case.group for case in found.values() if case.level == level}) == 7
    assert {"weightbridge", "iatransfer", "lit-wsl", "timm remap", "suffixes"} <= MAPPERS.keys()


def test_an_answer_is_judged_on_what_there_was_before_the_last_one() -> None:
    problem = FormProblem("shufflenet_v2_x0_5", "qat")
    right = copied(problem, fxmap.auto_map(problem.src, problem.dst, verify=False).renames)
    problem.judge({})
    assert problem.judge(right).equal
