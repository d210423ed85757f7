"""The commands map, convert, verify, explain and diff: what they say, and how they exit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxmap
from fxmap.cli import app as cli
from fxmap.files.checkpoint import read

LINEAR = "torch.nn:Linear(3, 2)"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        out, err = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return call


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save({"state_dict": nn.DataParallel(nn.Linear(3, 2)).state_dict()}, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def test_map_proves(run: Any) -> None:
    status, out, err = run("map", LINEAR, LINEAR)
    assert (status, err) == (0, "")
    assert "2 of 2 destination keys" in out
    assert "proof: ok" in out


def test_map_of_real_models(run: Any) -> None:
    model = "torchvision:resnet18(num_classes=5)"
    assert run("map", model, model)[0] == 0


def test_map_writes_json_that_verify_reads(run: Any, tmp_path: Path) -> None:
    status, out, _ = run("map", LINEAR, LINEAR, "--json")
    assert status == 0
    assert json.loads(out)["proof"]["ok"] is True
    assert fxmap.KeyMapping.from_json(out).renames == {"weight": "weight", "bias": "bias"}
    (tmp_path / "map.json").write_text(out)
    assert run("verify", LINEAR, LINEAR, str(tmp_path / "map.json"))[0] == 0
    assert json.loads(run("verify", LINEAR, LINEAR, str(tmp_path / "map.json"), "--json")[1])["ok"] is True


def test_a_wrong_mapping_exits_1(run: Any, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(fxmap.KeyMapping({"weight": "weight"}).to_json())
    status, out, _ = run("verify", LINEAR, LINEAR, str(tmp_path / "map.json"))
    assert status == 1
    assert "proof: not ok" in out


def test_a_guess_exits_1(run: Any, file: Path) -> None:
    status, out, _ = run("map", str(file), LINEAR)
    assert status == 1
    assert "guessed by shapes, names and order" in out
    assert "stripped 'module.'" in out


def test_two_checkpoints_are_mapped(run: Any, file: Path) -> None:
    status, out, _ = run("map", str(file), str(file), "--json")
    assert status == 1
    assert len(json.loads(out)["expressions"]) == 2


def test_different_networks_exit_1(run: Any) -> None:
    conv = "torch.nn:Conv2d(3, 4, 3)"
    status, out, _ = run("map", LINEAR, conv)
    assert status == 1
    assert "different networks" in out


def test_convert(run: Any, file: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    status, out, _ = run("convert", str(file), "--src", LINEAR, "--dst", LINEAR, "-o", str(output))
    assert status == 0
    assert f"wrote {output}: 2 of 2 tensors" in out
    weight = read(file)["module.weight"]
    assert torch.equal(read(output)["weight"], weight)
    status, _, err = run("convert", str(file), "--dst", LINEAR, "-o", str(output))
    assert status == 3
    assert "there already, not overwritten" in err
    assert "--force" in err
    assert run("convert", str(file), "--dst", LINEAR, "-o", str(output), "--force", "--json")[0] == 1


def test_convert_refuses_what_does_not_fit(run: Any, file: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.pth"
    status, _, err = run("convert", str(file), "--dst", "torch.nn:Linear(3, 7)", "-o", str(output))
    assert status == 1
    assert "weight: source module.weight is [2, 3], destination [7, 3]" in err
    assert not output.exists()


def test_convert_leaves_in_the_file_what_it_is_told_to(run: Any, tmp_path: Path) -> None:
    file, output = tmp_path / "scaled.pth", tmp_path / "out.pth"
    torch.save(torch.nn.Linear(3, 2).state_dict() | {"gain": torch.ones(2)}, file)
    arguments = ("convert", str(file), "--src", LINEAR, "--dst", LINEAR, "-o", str(output))
    status, _, err = run(*arguments)
    assert status == 1
    assert "gain" in err
    assert not output.exists()
    status, out, _ = run(*arguments, "--no-strict")
    assert status == 1
    assert "left in the file: 1 keys" in out
    assert output.exists()


def test_convert_calibrates_int8(run: Any, tmp_path: Path) -> None:
    src = "torchvision:resnet18(num_classes=5)"
    dst = "torchvision:quantized_resnet18(quantize=True, num_classes=5)"
    model = __import__("torchvision").models.resnet18(num_classes=5)
    torch.save(model.state_dict(), tmp_path / "float.pth")
    torch.save([torch.randn(2, 3, 64, 64) for _ in range(3)], tmp_path / "images.pt")
    arguments = ("convert", str(tmp_path / "float.pth"), "--src", src, "--dst", dst, "-o", str(tmp_path / "int8.pth"))
    status, _, err = run(*arguments)
    assert status == 3
    assert "activation ranges" in err
    assert "--calibration FILE" in err
    assert "--calibration distilled" in err
    assert "fxmap.transfer" not in err
    assert run(*arguments, "--calibration", str(tmp_path / "images.pt"))[0] == 0
    assert read(tmp_path / "int8.pth")["conv1.weight"].is_quantized


def test_calibration_that_is_no_list_of_tensors(run: Any, file: Path, tmp_path: Path) -> None:
    torch.save({"a": 3}, tmp_path / "images.pt")
    output = str(tmp_path / "out.pth")
    status, _, err = run("convert", str(file), "--dst", LINEAR, "-o", output, "--calibration", str(tmp_path / "images.pt"))
    assert status == 3
    assert "images.pt: not a tensor, nor a list of tensors, but a dict" in err


def test_explain(run: Any) -> None:
    status, out, _ = run("explain", LINEAR, LINEAR, "weight")
    assert status == 0
    assert "weight [2, 3] float32" in out
    assert "status: proven" in out
    assert "\nstructure, by symbolic trace: 2 keys (" in out
    assert "\n  align: 3 pairs, 100% of the smaller network (" in out
    assert "\nprove: ok (" in out
    data = json.loads(run("explain", LINEAR, LINEAR, "weight", "--json")[1])
    assert data["expression"] == "weight"
    assert [step["stage"] for step in data["trace"] if not step["depth"]] == ["structure, by symbolic trace", "prove"]
    assert all(step["seconds"] >= 0 for step in data["trace"])
    status, _, err = run("explain", LINEAR, LINEAR, "wieght")
    assert status == 2
    assert "not a key of torch.nn:Linear(3, 2), which has 2; the closest are weight" in err


def test_diff(run: Any, file: Path, tmp_path: Path) -> None:
    status, out, _ = run("diff", str(file), LINEAR)
    assert status == 0
    assert "values: not compared" in out
    status, out, _ = run("diff", str(file), "torch.nn:Linear(3, 7, bias=False)")
    assert status == 1
    assert "changed: weight: [2, 3] float32 in A, [7, 3] float32 in B" in out
    assert "only in A: module.bias: [2] float32" in out
    assert json.loads(run("diff", str(file), str(file), "--json")[1])["equal"] == 2


def test_diff_compares_values_and_exits_by_them(run: Any, tmp_path: Path) -> None:
    one = {f"layers.{i}.weight": torch.ones(3, 2) * (i + 1) for i in range(4)} | {"head": torch.tensor([1.0, float("nan")])}
    other = {key: value.clone() for key, value in one.items()}
    a, b = (str(tmp_path / name) for name in ("a.safetensors", "b.pth"))
    save_file(one, a)
    torch.save(other, b)
    status, out, _ = run("diff", a, b)
    assert (status, out) == (0, "equal: 5 of 5 keys of A and 5 of B agree in name, shape, dtype and value\n")
    for i in (1, 2, 3):
        other[f"layers.{i}.weight"][2, 1] += 0.01 * i
    torch.save(other, b)
    status, out, _ = run("diff", a, b)
    assert status == 1
    assert "first difference: layers.1.weight" in out
    assert "largest difference: layers.3.weight, by 0.03 at most (7.5e-03 of the largest), 1 value" in out
    assert "the first at [2, 1]" in out
    assert "values: layers.{i}.weight, i = 1..3: by 0.03 at most" in out
    assert "values: layers.2.weight: by 0.02" in run("diff", a, b, "--all")[1]
    found = json.loads(run("diff", a, b, "--json")[1])
    assert (found["first_difference"], found["largest_difference"]["key"]) == ("layers.1.weight", "layers.3.weight")
    assert (found["equal"], found["values"]["layers.2.weight"]["first"]) == (2, [2, 1])
    assert run("diff", a, b, "--tolerance", "0.01")[0] == 0


def test_diff_is_at_most_a_screen_of_each_kind(run: Any, tmp_path: Path) -> None:
    one = {f"{'abcdefghijklmnopqrstuvwxyz'[i]}.weight": torch.zeros(i + 1) for i in range(26)}
    torch.save(one, tmp_path / "a.pth")
    torch.save({key: value + 1 for key, value in one.items()}, tmp_path / "b.pth")
    _, out, _ = run("diff", str(tmp_path / "a.pth"), str(tmp_path / "b.pth"))
    assert len(out.splitlines()) < 24
    assert "and 10 more lines, which --all prints" in out
    assert "z.weight" in run("diff", str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), "--all")[1]


def test_diff_of_other_dtypes_shapes_and_infinities(run: Any, tmp_path: Path) -> None:
    a, b = (str(tmp_path / name) for name in ("a.pth", "b.pth"))
    torch.save({"x": torch.tensor([1.0, float("inf")]), "n": torch.tensor([1, 2]), "s": torch.zeros(2)}, a)
    torch.save({"x": torch.tensor([1.0, 2.0]), "n": torch.tensor([1, 2]).int(), "s": torch.zeros(3)}, b)
    status, out, _ = run("diff", a, b, "--json")
    found = json.loads(out)
    assert status == 1
    assert list(found["changed"]) == ["n", "s"]
    assert found["values"]["x"]["largest"] == "inf"


def test_advice_is_in_options_of_the_command_line(run: Any, tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text(
        "from torch import nn\ndef build(n):\n    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), "
        "nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, n))\n"
    )
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    torch.save(model.state_dict(), tmp_path / "a.pth")
    arguments = ("convert", str(tmp_path / "a.pth"), "--src", f"{net}:build(2)", "--dst", f"{net}:build(5)", "-o")
    status, _, err = run(*arguments, str(tmp_path / "b.pth"))
    assert status == 1
    assert "Pass --keep" in err
    assert "on_mismatch" not in err
    assert run(*arguments, str(tmp_path / "b.pth"), "--keep")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("map", "torchvision:resnet81", LINEAR), 2, "the closest is 'resnet18'"),
        (("map", LINEAR, "torch.nn:Linear(x)"), 2, "arguments are literals"),
        (("map", LINEAR, LINEAR, "--inputs", "1xtwo"), 2, "a shape is lengths joined by x"),
        (("map", "torch.nn:Linear(3)", LINEAR), 3, "building it raised TypeError"),
        (("map", "nowhere.pth", LINEAR), 3, "nowhere.pth: no such file"),
        (("verify", LINEAR, LINEAR, "nowhere.json"), 3, "nowhere.json: cannot be read"),
        (("verify", "nowhere.pth", LINEAR, "nowhere.json"), 3, "nowhere.json: cannot be read"),
        (("convert", "nowhere.pth", "--dst", "also.pth", "-o", "x.pth"), 3, "nowhere.pth: no such file"),
    ],
)
def test_errors_are_one_line(run: Any, arguments: tuple[str, ...], status: int, words: str) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (status, "")
    assert words in err
    assert err.startswith("fxmap: error: ")
    assert err.count("\n") == 1


def test_no_colour_where_it_is_not_wanted(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[3" not in run("map", LINEAR, LINEAR)[1]


def test_help_says_that_code_is_run(run: Any) -> None:
    assert "runs its package's code" in " ".join(run("map", "--help")[1].replace("│", " ").split())


def test_convert_into_a_folder_streams_and_says_how_far_it_is(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "a.pth")
    monkeypatch.setattr("fxmap.cli.progress.PATIENCE", 0.0)
    arguments = ("convert", str(tmp_path / "a.pth"), "--src", LINEAR, "--dst", LINEAR, "-o", str(tmp_path / "out"))
    status, out, err = run(*arguments, "--shard-size", "1KB", "--dtype", "bfloat16")
    assert (status, out.splitlines()[-1]) == (0, f"wrote {tmp_path / 'out'}: 2 of 2 tensors from {tmp_path / 'a.pth'}")
    assert "model.safetensors: 16 B of 16 B" in err
    assert read(tmp_path / "out")["weight"].dtype == torch.bfloat16
    assert run(*arguments)[0] == 3, "not overwritten"
    assert run(*arguments, "--force", "--no-proof")[0] == 1
    assert run(*arguments, "--force", "--shard-size", "5 parsecs")[0] == 2
    assert run(*arguments, "--force", "--dtype", "int8")[0] == 2


def test_convert_into_a_file_runs_no_model_where_that_is_asked_for(run: Any, tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "a.pth")
    arguments = ("convert", str(tmp_path / "a.pth"), "--src", LINEAR, "--dst", LINEAR, "-o", str(tmp_path / "b.pth"))
    status, out, _ = run(*arguments, "--no-proof", "--json")
    assert (status, json.loads(out)["proof"]["ok"]) == (1, False)
    assert run(*arguments, "--force")[0] == 0
