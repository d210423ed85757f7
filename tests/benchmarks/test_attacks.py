import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.proof.attacks import measure as measuring
from benchmarks.proof.attacks.attack import Attack, Free, Net, net, normal
from benchmarks.proof.attacks.behind import attacks as behind
from benchmarks.proof.attacks.equal import activations
from benchmarks.proof.attacks.exchanged import attacks as exchanged
from benchmarks.proof.attacks.judging import distance
from benchmarks.proof.attacks.kinds import KINDS
from benchmarks.proof.attacks.labels import attacks as labels
from benchmarks.proof.attacks.measure import Row, measure
from benchmarks.proof.attacks.merged import attacks as merged
from benchmarks.proof.attacks.operands import attacks as operands
from benchmarks.proof.attacks.parts import attacks as parts
from benchmarks.proof.attacks.recorded import both_ways
from benchmarks.proof.attacks.report import as_data, show
from benchmarks.proof.attacks.state import attacks as state
from fxmap.mapping.proof import Proof, Status

Claim = Callable[[Proof], None]


@pytest.fixture
def claim(monkeypatch: pytest.MonkeyPatch) -> Claim:
    """Have fxmap copy by name, and claim what a test says."""

    def claiming(proof: Proof) -> None:
        claimed = lambda attack, src, dst, *_: (measuring._by_name(dst), proof)  # noqa: E731
        monkeypatch.setattr(measuring, "_claimed", claimed)

    return claiming


def named(attacks: Callable[[], object], name: str) -> Attack:
    found: list[Attack] = [attack for attack in attacks() if attack.name == name]  # type: ignore[attr-defined]
    assert len(found) == 1
    return found[0]


def test_there_are_twenty_three_kinds_and_no_name_stands_for_two_attacks() -> None:
    names = Counter((kind, attack.name) for kind, attacks in KINDS.items() for attack in attacks())
    assert len(KINDS) == 23
    assert len(names) >= 120
    assert max(names.values()) == 1


def test_a_pair_that_differs_and_is_called_proven_is_a_false_proof(claim: Claim) -> None:
    claim(Proof(ok=True, forwards=1))
    row = measure("kind", named(operands, "clamp to a tensor"), equal=False)
    assert row.false_proof
    assert row.distance > 1e-3


def test_a_pair_that_differs_and_is_refused_is_no_false_proof(claim: Claim) -> None:
    claim(Proof(ok=False, forwards=1, reason="other"))
    row = measure("kind", named(operands, "clamp to a tensor"), equal=False)
    assert row.counts
    assert not row.is_false
    assert row.cause == "other"


def test_an_attack_that_is_the_same_function_does_not_count(claim: Claim) -> None:
    claim(Proof(ok=True, forwards=1))
    row = measure("kind", net("none", lambda h, _: F.relu(h), lambda h, _: h.clamp(min=0)), equal=False)
    assert row.discarded == "the same function on its probe"
    assert not row.is_false


def test_a_key_that_moves_the_output_must_not_be_called_inert(claim: Claim) -> None:
    attack = named(labels, "router of the best expert")
    claim(Proof(ok=True, forwards=1, statuses={"a.weight": Status.INERT, "b.weight": Status.PROVEN}))
    assert measure("kind", attack, equal=False).false_keys == ("a.weight is called inert",)


def test_the_bias_of_keys_is_inert_without_a_mask(claim: Claim) -> None:
    attack = named(labels, "a key's bias under a cap")
    plain = replace(attack, src=attention, dst=attention, moves=())
    claim(Proof(ok=True, forwards=1, statuses={"k.bias": Status.INERT}))
    assert measure("kind", plain, equal=True).false_keys == ()


def attention() -> Free:
    from benchmarks.proof.attacks.inputs import QKV
    from benchmarks.proof.attacks.inputs import attention as attend

    return Free(lambda m, ids, mask: attend(m, ids, lambda w: w) + 0 * mask[..., None], QKV)


def test_what_sees_other_values_than_its_counterpart_must_not_be_called_proven(claim: Claim) -> None:
    attack = named(behind, "behind a scale that differs")
    claim(Proof(forwards=1, statuses={"a.weight": Status.PROVEN, "c.weight": Status.PROVEN, "c.bias": Status.MATCHED}))
    assert measure("kind", attack, equal=False).false_keys == ("c.weight is called proven",)


def test_a_key_that_is_proven_and_not_the_truth_is_a_false_label(claim: Claim) -> None:
    claim(Proof(forwards=1, statuses={"z0.weight": Status.PROVEN, "z0.bias": Status.MATCHED}))
    row = measure("kind", named(merged, "pixel shuffle and depth to space, behind relu"), equal=True)
    assert row.false_keys == ("z0.weight is called proven",)
    assert row.is_false


def test_a_pair_whose_truth_is_none_does_not_count(claim: Claim) -> None:
    claim(Proof(forwards=1))
    attack = replace(named(exchanged, "two towers meet in a quotient"), truth=lambda state: {})
    assert measure("kind", attack, equal=True).discarded.startswith("the truth is")


@pytest.mark.parametrize("attacks", [merged, exchanged])
def test_every_pair_with_a_truth_has_one(attacks: Callable[[], object], claim: Claim) -> None:
    claim(Proof())
    found: list[Attack] = list(attacks())  # type: ignore[call-overload]
    assert len(found) >= 18
    assert [row.name for attack in found if (row := measure("kind", attack, equal=True)).discarded] == []


def test_what_training_leaves_in_integers_is_seen_by_the_judge(claim: Claim) -> None:
    claim(Proof(ok=True, forwards=1))
    assert measure("kind", named(state, "a number of steps"), equal=False).false_proof


def test_a_part_is_compared_with_what_the_source_computes_there(claim: Claim) -> None:
    claim(Proof(ok=True, forwards=1))
    assert measure("kind", named(parts, "without the clamp that no example reaches"), equal=False).false_proof


def test_a_refusal_is_told_with_its_error_and_is_no_false_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(*_: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(measuring, "_claimed", raising)
    row = measure("kind", named(operands, "clamp to a tensor"), equal=False)
    assert (row.failure, row.is_false, row.located) == ("ValueError: no", False, False)


def test_fxmap_refuses_and_locates_another_bound() -> None:
    row = measure("kind", named(operands, "hardtanh of 1000 or 2000"), equal=False)
    assert not row.ok
    assert row.located


def test_fxmap_proves_a_function_that_is_spelled_out() -> None:
    row = measure("kind", named(activations, "silu, h times sigmoid"), equal=True)
    assert row.ok
    assert row.distance <= 1e-9


def test_the_same_network_in_stricter_code_is_another_attack() -> None:
    both = list(both_ways(iter([named(operands, "clamp to a tensor")])))
    assert [attack.name for attack in both] == ["clamp to a tensor", "clamp to a tensor (recorded)"]
    with pytest.raises(TypeError, match="tensors are wanted, not str"):
        both[1].src().f("h")


def test_outputs_are_compared_by_name() -> None:
    one, two = torch.ones(2), torch.full((2,), 3.0)
    assert distance({"mu": one, "logvar": two}, {"logvar": two, "mu": one}) == 0
    assert distance({"mu": one, "logvar": two}, {"logvar": one, "mu": two}) == 2
    assert distance({"0": one}, {"0": one[:1]}) == float("inf")


def test_a_copy_of_a_network_is_one_of_its_class() -> None:
    import copy

    model = Net(lambda h, _: h)
    assert torch.equal(copy.deepcopy(model)(torch.ones(1, 8)), model(torch.ones(1, 8)))
    two = copy.deepcopy(Free(lambda m, x, y: x + y, {}))
    assert float(two(torch.ones(()), torch.ones(()))) == 2


def test_an_example_is_float32_and_is_drawn_alike_each_time() -> None:
    first: tuple[Tensor, ...] = normal(2, 3)()
    assert first[0].dtype == torch.float32
    assert torch.equal(first[0], normal(2, 3)()[0])


def test_false_proofs_and_causes_are_printed_and_written() -> None:
    rows = [
        Row("attack: a", "one", False, distance=1.0, ok=True),
        Row("attack: a", "two", False, distance=float("inf"), report="proof: not ok: why; run in float64"),
        Row("equal: b", "three", True, distance=0.0, report="proof: not ok: spelled otherwise; run in float64"),
    ]
    text = io.StringIO()
    show(Console(file=text, width=150), rows, everything=True)
    assert "FALSE PROOF: attack: a, one (differs by 1.0e+00)" in text.getvalue()
    assert "not located: attack: a, two: why" in text.getvalue()
    assert "not proven: equal: b, three: spelled otherwise" in text.getvalue()
    assert "2 attacks count; 1 false proofs or labels; 0 located; 0 discarded" in text.getvalue()
    assert "1 equal pairs count; 0 proven" in text.getvalue()
    assert as_data(rows)[1]["distance"] == "inf"


def test_the_command_takes_kinds_and_ends_well_without_a_false_proof() -> None:
    result = CliRunner().invoke(app, ["proof", "--only", "equal: activations", "--cap", "1"])
    assert result.exit_code == 0, result.output
    assert "1 equal pairs count" in result.output


def test_a_kind_that_is_not_there_is_refused() -> None:
    result = CliRunner().invoke(app, ["proof", "--only", "no such kind"])
    assert result.exit_code == 2


def test_the_command_runs_attacks_both_ways(tmp_path: Path) -> None:
    arguments = [
        "proof",
        "--only",
        "attack: names of outputs",
        "--cap",
        "1",
        "--streamed",
        "--json",
        str(tmp_path / "a.json"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "1 of 1 verdicts are those with weights in memory" in result.output
    rows = json.loads((tmp_path / "a.json").read_text())["attacks"]
    assert [row["kind"] for row in rows] == ["attack: names of outputs", "attack: names of outputs, streamed"]
