import pytest
import torch

from benchmarks.speed.command import Row, _print, exponents, measure
from fxmap.testing.generated import Decoder, JoinedDecoder, Residual, Shuffled

SMALL = {"layers": 2, "width": 32, "heads": 4, "groups": 2, "hidden": 48, "vocabulary": 50}


def test_the_two_generated_networks_are_one() -> None:
    src, dst = Residual(3, 0), Shuffled(3, 0)
    names = {
        "a": "norm.weight",
        "b": "norm.bias",
        "c": "up.weight",
        "d": "up.bias",
        "e": "down.weight",
        "f": "down.bias",
        "g": "gate",
    }
    state = src.state_dict()
    dst.load_state_dict({key: state[f"blocks.{key[1:]}.{names[key[0]]}"] for key in dst.state_dict()})
    x = torch.randn(4, 8)
    torch.testing.assert_close(dst(x), src(x))


def test_the_two_decoders_are_one() -> None:
    src, dst = Decoder(**SMALL), JoinedDecoder(**SMALL)
    state = src.state_dict()
    made = {
        "output.weight": state["head.weight"],
        "final.weight": state["norm.weight"],
        "tokens.weight": state["embed.weight"],
    }
    for i in range(2):
        part = {key: state[f"layers.{i}.{key}.weight"] for key in ("q", "k", "v", "o", "gate", "up", "down")}
        norms = {"ln1": "attention_norm", "ln2": "hidden_norm"}
        made |= {f"stack.{i}.{new}.weight": state[f"layers.{i}.{old}.weight"] for new, old in norms.items()}
        made[f"stack.{i}.qkv.weight"] = torch.cat([part["q"], part["k"], part["v"]])
        made[f"stack.{i}.fc1.weight"] = torch.cat([part["gate"], part["up"]])
        made[f"stack.{i}.proj.weight"], made[f"stack.{i}.fc2.weight"] = part["o"], part["down"]
    dst.load_state_dict(made)
    tokens = torch.randint(0, 50, (2, 7))
    torch.testing.assert_close(dst(tokens), src(tokens))


def test_a_generated_network_is_mapped_and_every_stage_is_timed() -> None:
    (row,) = measure("generated 60")
    assert row.failure == ""
    assert (row.mapped, row.missing) == (70, 0)
    assert row.proof_ok
    # A search in values is needed only where structure leaves something open.
    assert all(seconds > 0 for stage, seconds in row.seconds.items() if stage != "search")


def test_exponents_are_fitted_to_generated_networks_alone() -> None:
    rows = [Row("", "generated", n, seconds={"align": 3e-6 * n**1.5}, seconds_build=1e-6 * n) for n in (10, 100, 1000)]
    rows.append(Row("", "real", 100, seconds={"align": 50.0}))
    assert exponents(rows)["align"] == pytest.approx(1.5)
    assert exponents(rows)["building both models"] == pytest.approx(1)


def test_every_column_has_a_title(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("case", "generated", 10, 1.0, {"align": 1.0}, 1.0, 1.0, 1.0, 1.0, mapped=7, missing=3, peak_mb=5)
    _print([row], 1.0)
    shown = capsys.readouterr().out
    # The table is wider than a pipe, and so it is a list.
    assert all(
        text in shown for text in ("M params 1.0", "operations 10", "align 1.00", "mapped 7", "missing 3", "peak MB 5")
    )


def test_what_is_asked_is_counted_in_forwards(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        Row("fast", "real", seconds={"prove": 2.8}, seconds_map=0.5, seconds_both=0.1, seconds_double=0.2),
        Row("slow", "real", seconds={"prove": 3.0}, seconds_map=1.3, seconds_both=0.1, seconds_double=0.2),
        Row("not run", "real", failure="ended"),
    ]
    assert [round(row.map_forwards or 0) for row in rows] == [2, 10, 0]
    assert [round(row.proof_forwards or 0) for row in rows] == [14, 15, 0]
    _print(rows, 1.0)
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "of 2 real models 1 are mapped in 2 forwards of both and 0.3 s, and 1 proven in 14 forwards" in shown
