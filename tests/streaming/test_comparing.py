"""A converted checkpoint is compared key by key with what the mapping makes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import fxmap
from fxmap.cli import app as cli
from fxmap.streaming import comparing

MAPPING = fxmap.KeyMapping({"q": "qkv[0:4]", "k": "qkv[4:8]", "w": "transpose(w)", "n": "n"})


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(comparing, "_BLOCK", 64)
    state = {"qkv": torch.randn(8, 6), "w": torch.randn(5, 3), "n": torch.arange(4)}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(MAPPING.evaluate(state), tmp_path / "b.pth")
    return tmp_path / "a.safetensors", tmp_path / "b.pth"


def _changed(path: Path, **values: torch.Tensor | None) -> None:
    state = torch.load(path) | values
    torch.save({key: value for key, value in state.items() if value is not None}, path)


def test_what_the_mapping_makes_is_equal(files: tuple[Path, Path]) -> None:
    seen: list[tuple[int, int, str]] = []
    found = fxmap.verify_files(*files, MAPPING, progress=lambda *step: seen.append(step))
    assert found.ok
    assert str(found) == "4 of 4 keys are equal, bit for bit"
    assert seen[-1] == (2 * 4 * 24 + 60 + 32, 2 * 4 * 24 + 60 + 32, "n")
    assert len(seen) > 8


def test_one_number_is_found_with_its_place(files: tuple[Path, Path]) -> None:
    k = torch.load(files[1])["k"].clone()
    before, k[3, 2] = k[3, 2].item(), 100.0
    _changed(files[1], k=k)
    (found,) = fxmap.verify_files(*files, MAPPING).differences
    assert (found.key, found.place, found.found, found.wanted) == ("k", (3, 2), 100.0, before)
    assert found.error == pytest.approx(100 - before)


def test_keys_that_are_absent_or_of_another_shape_or_strange_are_named(files: tuple[Path, Path]) -> None:
    _changed(files[1], q=None, w=torch.zeros(5, 3), n=torch.arange(4.0), more=torch.ones(1))
    found = fxmap.verify_files(*files, MAPPING)
    reasons = {one.key: one.reason for one in found.differences}
    assert reasons["q"] == "not in the file"
    assert reasons["w"] == "[5, 3] in the file, the mapping makes [3, 5]"
    assert "torch.float32 in the file" in reasons["n"]
    assert found.others == ("more",)


def test_another_dtype_is_equal_where_it_is_the_converted_value(files: tuple[Path, Path]) -> None:
    q = torch.load(files[1])["q"].bfloat16()
    _changed(files[1], q=q)
    found = fxmap.verify_files(*files, MAPPING)
    assert found.ok
    assert found.converted == ("q",)
    _changed(files[1], q=q.flip(0))
    assert not fxmap.verify_files(*files, MAPPING).ok


def test_numbers_that_are_none_are_compared_by_their_bits(tmp_path: Path) -> None:
    state = {"a": torch.tensor([float("nan"), float("inf"), -0.0])}
    assert comparing.compare(fxmap.KeyMapping({"a": "a"}), state, {"a": state["a"].clone()}).ok
    zero = comparing.compare(fxmap.KeyMapping({"a": "a"}), state, {"a": torch.tensor([float("nan"), float("inf"), 0.0])})
    assert zero.differences[0].place == (2,)


def test_the_command_exits_with_what_it_finds(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    file = files[0].parent / "map.json"
    file.write_text(MAPPING.to_json())
    command = ("verify", "--files", *map(str, files), str(file))
    with pytest.raises(SystemExit) as equal:
        cli.main(command)
    assert equal.value.code == 0
    assert "4 of 4 keys are equal" in capsys.readouterr().out
    _changed(files[1], q=torch.zeros(4, 6))
    with pytest.raises(SystemExit) as differing:
        cli.main((*command, "--json"))
    assert differing.value.code == 1
    data = json.loads(capsys.readouterr().out)
    assert (data["ok"], data["keys"], data["differences"][0]["key"]) == (False, 4, "q")
