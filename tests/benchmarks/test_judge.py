from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn

import fxmap
from benchmarks.common import judge as judging
from benchmarks.common.controls import CONTROLS
from benchmarks.common.judge import judge
from benchmarks.registry.pair import Pair, item, normal
from benchmarks.registry.truth import Truth


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.head = nn.Linear(6, 6, bias=False)
        self.head.weight = self.second.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.second(torch.relu(self.first(x)))))
        return out


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(6, 6)
        self.two = nn.Linear(6, 6)
        self.three = nn.Linear(6, 6, bias=False)
        self.three.weight = self.two.weight

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.three(torch.relu(self.two(torch.relu(self.one(x)))))}


RIGHT = {
    "one.weight": "first.weight",
    "one.bias": "first.bias",
    "two.weight": "second.weight",
    "two.bias": "second.bias",
    "three.weight": "head.weight",
}
SWAPPED = RIGHT | {"one.bias": "second.bias", "two.bias": "first.bias"}


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Pair:
    truth = Truth(RIGHT, frozenset())
    monkeypatch.setattr(judging, "truth_of", lambda name: truth if name == "tied->plain" else None)
    return Pair("tied->plain", "test", 0.1, Tied, Plain, normal(3, 6))


def mapped(
    monkeypatch: pytest.MonkeyPatch,
    expressions: dict[str, str],
    statuses: dict[str, fxmap.Status] | None = None,
    ok: bool = False,
) -> None:
    def auto_map(src: nn.Module, dst: nn.Module, *, verify: bool, **options: object) -> fxmap.KeyMapping:
        mapping = fxmap.KeyMapping(expressions)
        if statuses:
            mapping.knowledge.statuses.update(statuses)
        proof = fxmap.Proof(ok, mapping.knowledge.statuses) if verify else None
        return fxmap.KeyMapping(mapping, mapping.knowledge, proof)

    monkeypatch.setattr(fxmap, "auto_map", auto_map)


def test_fxmap_itself_is_right(pair: Pair) -> None:
    (row,) = judge(pair, proof=True, controls=True)
    assert row.ok
    assert (row.keys, row.right, row.wrong, row.missing) == (5, 5, 0, 0)
    assert row.false_proofs == []
    assert row.load_failure == ""
    assert row.controls["truth"]


def test_a_wrong_mapping_is_wrong(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped(monkeypatch, SWAPPED)
    (row,) = judge(pair, proof=False, controls=False)
    assert not row.equal
    assert not row.ok
    assert row.wrong_keys == ["one.bias", "two.bias"]


def test_a_false_proof_is_found(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped(monkeypatch, SWAPPED, {"one.bias": fxmap.Status.PROVEN}, ok=True)
    (row,) = judge(pair, proof=True, controls=False)
    assert row.false_proofs == ["proof.ok", "one.bias"]


def test_keys_that_are_left_out_are_missing_unless_they_are_tied(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped(monkeypatch, {key: value for key, value in RIGHT.items() if key not in ("one.bias", "three.weight")})
    (row,) = judge(pair, proof=False, controls=False)
    assert row.missing_keys == ["one.bias"]
    assert row.right == 4


def test_an_error_of_the_mapper_is_a_row(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*args: object, **options: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(fxmap, "auto_map", raises)
    (row,) = judge(pair, proof=False, controls=False)
    assert row.failure == "ZeroDivisionError: inside"
    assert not row.ok


def test_functions_of_a_pair_are_used_and_left_out_where_both_models_accept_the_inputs(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    mapped(monkeypatch, RIGHT)
    inner = fxmap.auto_map

    def asked(*args: nn.Module, **options: Any) -> fxmap.KeyMapping:
        calls.append(options)
        return inner(*args, **options)

    monkeypatch.setattr(fxmap, "auto_map", asked)
    other = Pair(pair.id, "test", 0.1, Tied, Plain, normal(3, 6), dst_out=item("out"))
    rows = list(judge(other, proof=False, controls=False))
    assert [row.way for row in rows] == ["forwards", "plain"]
    assert all(row.ok for row in rows)
    assert ["dst_forward" in options for options in calls] == [True, False]


def test_a_head_that_the_source_does_not_run_is_not_asked_for_without_the_functions_of_the_pair(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Features(Tied):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.first(x))

    other = Pair(pair.id, "test", 0.1, Features, Plain, normal(3, 6), src_out=Tied.forward)
    mapped(monkeypatch, {key: value for key, value in RIGHT.items() if key.startswith("one")})
    forwards, plain = judge(other, proof=False, controls=False)
    assert not forwards.ok
    assert plain.ok
    mapped(monkeypatch, {"one.weight": "first.weight"})
    assert not list(judge(other, proof=False, controls=False))[1].ok


def test_without_a_truth_map_functions_decide(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Pair("no truth", "test", 0.1, Tied, Plain, normal(3, 6))
    (row,) = judge(other, proof=False, controls=False)
    assert row.ok
    mapped(monkeypatch, SWAPPED)
    (row,) = judge(other, proof=False, controls=False)
    assert not row.ok


def test_a_pair_whose_functions_differ_is_judged_by_its_keys(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Pair(pair.id, "test", 0.1, Tied, lambda: nn.Sequential(Plain(), Double()), normal(3, 6), same_function=False)
    monkeypatch.setattr(judging, "truth_of", lambda name: Truth({f"0.{k}": v for k, v in RIGHT.items()}, frozenset()))
    mapped(monkeypatch, {f"0.{key}": value for key, value in RIGHT.items()})
    (row,) = judge(other, proof=True, controls=False)
    assert not row.equal
    assert row.ok
    mapped(monkeypatch, {f"0.{key}": value for key, value in RIGHT.items()}, ok=True)
    (row,) = judge(other, proof=True, controls=False)
    assert not row.ok


class Double(nn.Module):
    def forward(self, outputs: dict[str, Tensor]) -> Tensor:
        return 2 * outputs["out"]


def test_a_package_that_is_absent_is_not_run(pair: Pair) -> None:
    def absent() -> NoReturn:
        raise ModuleNotFoundError("No module named 'absent'")

    (row,) = judge(Pair("absent", "test", 0.1, absent, Plain, normal(3, 6)), proof=False, controls=False)
    assert not row.ran
    assert not row.ok
    assert "absent" in row.not_run


def test_controls() -> None:
    src = {"a": torch.ones(2), "b": torch.zeros(2), "b.num_batches_tracked": torch.tensor(1)}
    dst = {"b": torch.ones(2), "c": torch.ones(2), "d": torch.ones(3)}
    made = {name: {k: float(v[0]) for k, v in control(src, dst).items()} for name, control in CONTROLS.items()}
    assert made == {
        "same name and shape": {"b": 0.0},
        "next of the same shape": {"b": 1.0, "c": 0.0},
        "registration order": {"b": 1.0, "c": 0.0},
    }
