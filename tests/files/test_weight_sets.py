"""Several sets of weights in one file: which one is meant, or that nobody can know."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxmap
from fxmap.files.weight_sets import sets_by_prefix, shapes_of


def weight(model: nn.Module, path: str) -> torch.Tensor:
    value: torch.Tensor = model.state_dict()[f"{path}.weight"]
    return value


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def other_names() -> nn.ModuleDict:
    return nn.ModuleDict({"first": nn.Linear(3, 4), "last": nn.Linear(4, 2)})


def under(name: str, model: nn.Module) -> dict[str, Any]:
    return {f"{name}.{key}": value for key, value in model.state_dict().items()}


A, B = net(), net()

UNDECIDED: dict[str, Mapping[str, Any]] = {
    "containers": {"student": A.state_dict(), "teacher": B.state_dict()},
    "other order": {"teacher": B.state_dict(), "student": A.state_dict()},
    "prefixes": under("student", A) | under("teacher", B),
    "wrapped": {"state_dict": under("module.student", A) | under("module.teacher", B) | {"queue": torch.ones(5, 5)}},
    "parts of each": under("student.backbone", A) | under("teacher.backbone", B) | {"student.head.weight": torch.ones(3, 3)},
}

USUAL: dict[str, Mapping[str, Any]] = {
    "containers": {"ema": B.state_dict(), "model": A.state_dict()},
    "prefixes": under("model_ema", B) | under("model", A),
    "raw at the top": dict(A.state_dict()) | under("ema", B),
    "averaged first": under("ema", B) | dict(A.state_dict()),
}


@pytest.mark.parametrize("file", UNDECIDED.values(), ids=UNDECIDED)
@pytest.mark.parametrize("with_src", [True, False])
@pytest.mark.parametrize("build", [net, other_names])
def test_two_sets_that_fit_are_the_user_s_choice(file: Mapping[str, Any], with_src: bool, build: Any) -> None:
    dst = build()
    before = {key: value.clone() for key, value in dst.state_dict().items()}
    with pytest.raises(
        fxmap.CheckpointError, match=r"2 sets of weights that fit equally well: .*student.*weights="
    ) as caught:
        fxmap.load(dst, file, src=net() if with_src else None)
    assert "teacher" in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in dst.state_dict().items())


@pytest.mark.parametrize("file", UNDECIDED.values(), ids=UNDECIDED)
def test_weights_chooses(file: Mapping[str, Any]) -> None:
    dst = net()
    mapping = fxmap.load(dst, file, weights="teacher")
    assert torch.equal(weight(dst, "0"), weight(B, "0"))
    assert len(mapping) == 4


@pytest.mark.parametrize("file", USUAL.values(), ids=USUAL)
def test_a_usual_name_is_chosen_and_said(file: Mapping[str, Any]) -> None:
    dst = net()
    mapping = fxmap.load(dst, file, src=net())
    assert torch.equal(weight(dst, "0"), weight(A, "0"))
    assert "holds several weights" in str(mapping)


def test_a_dotted_name_chooses_a_part_of_a_set() -> None:
    dst = net()
    fxmap.load(dst, UNDECIDED["parts of each"], weights="teacher.backbone")
    assert torch.equal(weight(dst, "0"), weight(B, "0"))
    fxmap.load(dst, {"teacher": under("backbone", B), "student": under("backbone", A)}, weights="student.backbone")
    assert torch.equal(weight(dst, "0"), weight(A, "0"))


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(fxmap.CheckpointError, match=r"no weights named 'tutor'.*'student', 'teacher'"):
        fxmap.load(net(), UNDECIDED["prefixes"], weights="tutor")


def test_sets_of_equal_values_are_no_choice() -> None:
    dst = net()
    fxmap.load(dst, {"student": A.state_dict(), "teacher": A.state_dict()})
    assert torch.equal(weight(dst, "0"), weight(A, "0"))


def test_two_towers_of_one_model_are_no_choice() -> None:
    def towers() -> nn.ModuleDict:
        return nn.ModuleDict({"left": net(), "right": net()})

    src, dst = towers(), towers()
    fxmap.load(dst, src.state_dict())
    assert torch.equal(weight(dst, "right.0"), weight(src, "right.0"))


def test_another_head_does_not_hide_that_there_are_two_sets() -> None:
    def deep(classes: int) -> nn.Module:
        return nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)), nn.Linear(4, classes))

    with pytest.raises(fxmap.CheckpointError, match="encoder_q, encoder_k"):
        fxmap.load(deep(3), under("encoder_q", deep(5)) | under("encoder_k", deep(5)), on_mismatch="keep")


def test_nested_dicts_of_one_network_are_one_state_dict() -> None:
    dst = net()
    file = {"model": {"language_model": {"0": A[0].state_dict(), "2": A[2].state_dict()}}, "epoch": 3}
    assert len(fxmap.load(dst, file)) == 4
    assert torch.equal(weight(dst, "2"), weight(A, "2"))


def test_parts_of_one_network_that_were_saved_apart() -> None:
    src, dst = (nn.ModuleDict({"encoder": net(), "decoder": net()}) for _ in range(2))
    fxmap.load(dst, {name: part.state_dict() for name, part in src.items()} | {"epoch": 3})
    assert torch.equal(weight(dst, "decoder.2"), weight(src, "decoder.2"))


def test_several_files_are_one_state_dict(tmp_path: Path) -> None:
    torch.save(A[0].state_dict(prefix="0."), tmp_path / "a.pth")
    save_file(A[2].state_dict(prefix="2."), tmp_path / "b.safetensors")
    dst = net()
    assert fxmap.load(dst, [tmp_path / "a.pth", tmp_path / "b.safetensors"], src=net()).ok
    assert torch.equal(weight(dst, "2"), weight(A, "2"))
    torch.save(B[0].state_dict(prefix="0."), tmp_path / "c.pth")
    with pytest.raises(fxmap.CheckpointError, match=r"c\.pth: 0\.weight, 0\.bias: in an earlier file too"):
        fxmap.load(dst, [tmp_path / "a.pth", tmp_path / "c.pth"])


@pytest.mark.parametrize("nested", [True, False])
def test_a_name_that_several_parts_of_a_file_end_with_is_refused_with_all_of_them(nested: bool) -> None:
    nets = {name: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).state_dict() for name in "ab"}
    file: dict[str, object] = {name: {"net": dict(net)} for name, net in nets.items()}
    if not nested:
        file = {f"{name}.net.{key}": value for name, net in nets.items() for key, value in net.items()}
    dst = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(fxmap.CheckpointError, match=r"a\.net, b\.net"):
        fxmap.load(dst, file, weights="net")
    fxmap.load(dst, file, weights="b.net")
    assert torch.equal(weight(dst, "1"), nets["b"]["1.weight"])


def test_layers_of_equal_shapes_are_no_sets_of_weights() -> None:
    file = {f"{name}_proj.weight": torch.zeros(8, 6) for name in ("gate", "up")} | {"down_proj.weight": torch.zeros(6, 8)}
    wanted = shapes_of({"fc1.weight": torch.zeros(16, 6), "fc2.weight": torch.zeros(6, 8)})
    assert sets_by_prefix(file, wanted) == {}
