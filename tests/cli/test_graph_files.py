"""Files that carry their graph on the command line: mapped, verified, and written anew with other weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxmap
from fxmap.api.graph_file import fill_graph_file
from fxmap.cli import app as cli
from fxmap.files.checkpoint import read
from fxmap.sources.onnx.model import open_onnx

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402 - after importorskip

LINEAR = "torch.nn:Linear(40, 20)"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return call


@pytest.fixture(params=["inside", "beside"])
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((20, 40)).astype(np.float32), "b": rng.standard_normal(20).astype(np.float32)}
    x, y = (helper.make_tensor_value_info(name, 1, [2, size]) for name, size in (("x", 40), ("y", 20)))
    made = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph([helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)], "net", [x], [y], made)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    options = (
        {"save_as_external_data": True, "location": "numbers", "size_threshold": 100} if request.param == "beside" else {}
    )
    onnx.save(proto, tmp_path / "model.onnx", **options)
    return tmp_path / "model.onnx"


def test_a_file_is_mapped_verified_and_explained(run: Any, model: Path, tmp_path: Path) -> None:
    status, out, _ = run("map", model, LINEAR, "--json")
    assert status == 0
    (tmp_path / "map.json").write_text(out)
    assert run("verify", model, LINEAR, tmp_path / "map.json")[0] == 0
    assert "w [20, 40] float32" in run("explain", model, LINEAR, "weight")[1]
    assert run("map", LINEAR, model)[0] == 0


def test_weights_are_not_chosen_in_a_graph(run: Any, model: Path) -> None:
    status, _, err = run("map", model, LINEAR, "--weights", "ema")
    assert status == 2
    assert "which has one set of weights" in err


def test_the_initializers_of_a_file_are_filled_and_lie_where_they_lay(run: Any, model: Path, tmp_path: Path) -> None:
    layer = nn.Linear(40, 20)
    torch.save(layer.state_dict(), tmp_path / "weights.pth")
    new, before = tmp_path / "new.onnx", model.read_bytes()
    words = ("convert", tmp_path / "weights.pth", "--src", LINEAR, "--dst", model, "-o", new)
    assert run(*words)[0] == 0
    filled = open_onnx(new)
    assert torch.equal(filled.state_dict()["w"], layer.weight.detach())
    assert (tmp_path / "new.onnx.data").exists() == filled.external == (tmp_path / "numbers").exists()
    onnx.checker.check_model(str(new))
    assert model.read_bytes() == before
    status, _, err = run(*words)
    assert status == 3
    assert "already" in err
    assert run(*words, "--force")[0] == 0
    status, _, err = run("convert", tmp_path / "weights.pth", "--src", LINEAR, "--dst", model, "-o", tmp_path / "new.pth")
    assert status == 2
    assert "must end in .onnx" in err


def test_a_program_is_filled_in_python_and_nothing_is_written_where_that_fails(model: Path, tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(40, 20), (torch.ones(2, 40),))
    torch.export.save(program, tmp_path / "a.pt2")
    mapping = fxmap.convert(model, tmp_path / "b.pt2", dst=tmp_path / "a.pt2")
    assert mapping.ok
    expected = open_onnx(model)(torch.ones(2, 40))
    assert torch.allclose(torch.export.load(tmp_path / "b.pt2").module()(torch.ones(2, 40)), expected, atol=1e-5)
    torch.save({"weight": torch.ones(3, 3)}, tmp_path / "other.pth")
    with pytest.raises(fxmap.FxmapError):
        fill_graph_file(tmp_path / "other.pth", tmp_path / "c.pt2", dst=tmp_path / "a.pt2")
    assert not (tmp_path / "c.pt2").exists()
    with pytest.raises(fxmap.CheckpointError, match=r"must end in \.pt2"):
        fill_graph_file(model, tmp_path / "c.onnx", dst=tmp_path / "a.pt2")


def test_options_of_load_hold_for_files_with_a_graph_or_are_refused_by_name(model: Path) -> None:
    with pytest.raises(fxmap.LoadError, match=r"weights='ema': .*model\.onnx carries its graph"):
        fxmap.load(nn.Linear(40, 20), model, weights="ema")
    with torch.device("meta"):
        dst = nn.Linear(40, 20)
    fxmap.load(dst, model, assign=True, verify=False)
    assert not dst.weight.is_meta


def test_a_checkpoint_is_converted_from_an_onnx_file(run: Any, model: Path, tmp_path: Path) -> None:
    assert run("convert", model, "--dst", LINEAR, "-o", tmp_path / "new.pth")[0] == 0
    assert torch.equal(read(tmp_path / "new.pth")["weight"], open_onnx(model).state_dict()["w"])


def test_a_script_without_the_option_that_lets_it_run_is_refused_with_its_name(run: Any, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(40, 20), torch.ones(2, 40)), tmp_path / "a.ts")
    for command in (["map"], ["explain"]):
        status, _, err = run(*command, tmp_path / "a.ts", LINEAR, *(["weight"] if command == ["explain"] else []))
        assert status == 3
        assert "--allow-code lets torch's interpreter run it" in err
    assert run("map", tmp_path / "a.ts", LINEAR, "--allow-code", "--inputs", "2,40")[0] == 0
    status, _, err = run("map", LINEAR, tmp_path / "a.ts")
    assert "--allow-code" not in err


def test_a_file_with_its_graph_is_converted_into_a_folder_and_compared_like_a_checkpoint(
    run: Any, model: Path, tmp_path: Path
) -> None:
    mapping = fxmap.convert(model, tmp_path / "mine", dst=nn.Linear(40, 20))
    assert mapping.ok
    assert fxmap.verify_files(model, tmp_path / "mine", mapping).ok
    made = read(tmp_path / "mine" / "model.safetensors")
    assert torch.equal(made["weight"], open_onnx(model).state_dict()["w"])
    with pytest.raises(fxmap.LoadError, match="which has one set of weights"):
        fxmap.convert(model, tmp_path / "other", dst=nn.Linear(40, 20), weights="ema")
    assert not (tmp_path / "other").exists()

    status, out, _ = run("convert", model, "--dst", LINEAR, "-o", tmp_path / "again")
    assert status == 0
    assert "wrote" in out
    assert run("diff", model, model)[0] == 0
    torch.save({"w": torch.zeros(20, 40), "b": torch.zeros(20)}, tmp_path / "zeros.pth")
    status, out, _ = run("diff", model, tmp_path / "zeros.pth")
    assert status == 1
    assert "800 values" in out


def test_what_a_file_cannot_be_is_said_with_what_takes_it(model: Path, tmp_path: Path) -> None:
    layer, weights = nn.Linear(40, 20), tmp_path / "weights.pth"
    torch.save(layer.state_dict(), weights)
    before = model.read_bytes()
    with pytest.raises(fxmap.ArgumentError, match=r"dst is a model .*fxmap.convert\(checkpoint_file, output, dst=path"):
        fxmap.transfer(layer, model)  # type: ignore[arg-type]
    with pytest.raises(fxmap.ArgumentError, match=r"dst is a model .*fxmap.convert\(checkpoint_file, output, dst=path"):
        fxmap.load(model, weights, src=layer)  # type: ignore[arg-type]
    with pytest.raises(fxmap.ArgumentError, match=r"src is a model .*loaded by itself, fxmap.load\(dst, path\)"):
        fxmap.load(layer, weights, src=model)  # type: ignore[arg-type]
    assert model.read_bytes() == before
    with pytest.raises(fxmap.CheckpointError, match=r"no such file; the closest beside it is model\.onnx"):
        fxmap.load(layer, tmp_path / "modell.onnx")
    torch.jit.save(torch.jit.trace(layer, torch.ones(1, 40)), str(tmp_path / "net.ts"))
    with pytest.raises(fxmap.CheckpointError, match=r"net\.ts: no file that .* can be written: \.onnx, \.pt2"):
        fxmap.convert(weights, tmp_path / "new.ts", dst=tmp_path / "net.ts", src=layer)


def test_the_next_step_names_the_file_that_carries_the_graph(run: Any, model: Path) -> None:
    layer = nn.Linear(40, 20)
    assert f"fxmap.load(dst, {str(model)!r})" in fxmap.auto_map(model, layer).summary()
    assert f"dst={str(model)!r}, src=src)" in fxmap.auto_map(layer, model).summary()
    out = " ".join(run("map", model, LINEAR)[1].split())
    assert f"fxmap convert {model} --dst {LINEAR!r} -o new.safetensors" in out
