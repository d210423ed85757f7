"""The attacks of `python -m benchmarks faults`: a few of each kind here, thousands where slow tests run."""

import json
from pathlib import Path

import pytest

from benchmarks.faults.attack import Attack
from benchmarks.faults.command import ATTACKS, command, one, run

# Of kinds that take a second each.
_FEW = {"threads": 1, "transforms": 2, "changing models": 2, "signals": 3}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_few_attacks_of_each_kind_are_survived(name: str) -> None:
    for number in range(_FEW.get(name, 6)):
        assert one(ATTACKS[name], number) == "", number


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_survived(name: str) -> None:
    row = run(ATTACKS[name], 2000, 300)
    assert row.tried >= (10 if name in _FEW else 100)
    assert row.survived == row.tried, row.failures


def test_the_command_writes_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(count=3, only="hostile keys", seconds=100, json_file=tmp_path / "faults.json")
    assert "3 of 3 survived" in capsys.readouterr().out
    data = json.loads((tmp_path / "faults.json").read_text())
    assert data["benchmark"] == "faults"
    assert data["rows"][0]["tried"] == data["rows"][0]["survived"] == 3


def test_an_attack_that_fails_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = Attack("always", "nothing", lambda rng, folder: "broken" if rng.random() < 2 else "")
    assert one(attack, 0) == "broken"
