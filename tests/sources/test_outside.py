"""Numbers of ONNX models that lie in a file beside them: mapped into memory, checked, and left in the file."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.sources.onnx.model import OnnxModel, open_onnx

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402 - after importorskip

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((20, 20)).astype(np.float32)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(20, 20, bias=False), nn.Linear(20, 20, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(torch.tanh(self.a(x)))
        return result


def outside(name: str, shape: list[int], dtype: int = 1, **place: object) -> Any:
    tensor = onnx.TensorProto(name=name, data_type=dtype, dims=shape, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": "numbers", **place}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return tensor


def proto(*initializers: Any) -> Any:
    nodes = [
        helper.make_node("Gemm", ["x", "one"], ["g"], transB=1),
        helper.make_node("Tanh", ["g"], ["h"]),
        helper.make_node("Gemm", ["h", "two"], ["y"], transB=1),
    ]
    info = [helper.make_tensor_value_info(name, 1, [2, 20]) for name in "xy"]
    graph = helper.make_graph(nodes, "net", info[:1], info[1:], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def saved(folder: Path, **place: object) -> Path:
    """Write a model of two layers, one of whose weights lies beside it, from its byte 4096 on."""
    folder.mkdir(exist_ok=True)
    (folder / "numbers").write_bytes(bytes(4096) + WEIGHT.tobytes())
    where: dict[str, Any] = {"offset": 4096, "length": 1600, **place}
    held = outside("one", [20, 20], **where)
    onnx.save(proto(held, numpy_helper.from_array(2 * WEIGHT, "two")), folder / "a.onnx")
    return folder / "a.onnx"


def test_weights_beside_a_file_are_loaded_and_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path, dst = saved(tmp_path), Two()
    before = (tmp_path / "numbers").read_bytes()
    assert fxmap.load(dst, path).ok
    assert torch.equal(dst.a.weight, torch.from_numpy(WEIGHT))
    model = open_onnx(path)
    with torch.no_grad():
        model.held("one").mul_(2)
    assert torch.equal(model.held("one"), torch.from_numpy(2 * WEIGHT))
    assert (tmp_path / "numbers").read_bytes() == before


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no count of this process's memory")
def test_opening_a_model_of_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "numbers").open("wb") as stream:
        stream.truncate(1 << 31)
        stream.seek((1 << 31) - 4)
        stream.write(np.float32(7).tobytes())
    onnx.save(proto(*(outside(name, [1 << 14, 1 << 15]) for name in ("one", "two"))), tmp_path / "a.onnx")
    before = resident()
    model = open_onnx(tmp_path / "a.onnx")
    assert float(model.held("one")[-1, -1]) == float(model.held("two")[-1, -1]) == 7
    assert resident() - before < 1 << 26


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("inside", [False, True])
def test_replicas_of_a_model_share_its_numbers(inside: bool, tmp_path: Path) -> None:
    from fxmap.model.replica import replicate

    path = saved(tmp_path)
    if inside:
        onnx.save(onnx.load(path), path)
    model = open_onnx(path)
    twin = replicate(model)
    assert isinstance(twin, OnnxModel)
    assert twin.proto is model.proto
    assert not any(one.raw_data for one in model.proto.graph.initializer)


def test_a_model_whose_weights_lie_beside_it_is_written_so_again(tmp_path: Path) -> None:
    model = open_onnx(saved(tmp_path))
    with torch.no_grad():
        model.held("one").mul_(2)
    model.save(tmp_path / "a.onnx")
    again = onnx.load(tmp_path / "a.onnx")
    held = {one.name: numpy_helper.to_array(one) for one in again.graph.initializer}
    np.testing.assert_array_equal(held["one"], 2 * WEIGHT)
    np.testing.assert_array_equal(held["two"], 2 * WEIGHT)


BAD = [
    ({"location": "../numbers"}, "no name of a file beside"),
    ({"location": "/etc/hostname"}, "no name of a file beside"),
    ({"location": "C:\\numbers"}, "no name of a file beside"),
    ({"location": ""}, "no name of a file beside"),
    ({"location": "absent"}, "'absent', which is not beside"),
    ({"location": "link"}, "a link to .*, outside of"),
    ({"location": "folder"}, "which is not beside"),
    ({"offset": -4}, "its offset in 'numbers' is '-4'"),
    ({"offset": "many"}, "its offset in 'numbers' is 'many'"),
    ({"offset": 2**62}, "no number of bytes|ends at 5696"),
    ({"offset": 4100}, "ends at 5696"),
    ({"length": 1500}, "1500 bytes in 'numbers', and its shape .* takes 1600"),
    ({"length": "9" * 5000}, "no number of bytes"),
]


@pytest.mark.parametrize(("place", "message"), BAD)
def test_a_record_that_leads_out_of_the_folder_or_the_file_is_refused(
    place: dict[str, object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(bytes(8192))
    path = saved(tmp_path / "model", **place)
    (tmp_path / "model" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "model" / "folder").mkdir()
    with pytest.raises(fxmap.CheckpointError, match=rf"a\.onnx: one: .*({message})"):
        open_onnx(path)


@pytest.mark.parametrize("shape", [[2**40, 2**40], [20, -1]])
def test_a_shape_that_the_file_cannot_hold_is_refused(shape: list[int], tmp_path: Path) -> None:
    (tmp_path / "numbers").write_bytes(bytes(8192))
    onnx.save(proto(outside("one", shape), numpy_helper.from_array(WEIGHT, "two")), tmp_path / "a.onnx")
    with pytest.raises(fxmap.CheckpointError, match=r"one: .*(ends at 8192|no tensor of the shape)"):
        open_onnx(tmp_path / "a.onnx")


def test_a_cache_that_links_the_model_and_its_numbers_from_one_folder_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in (path.name, "numbers"):
        (snapshot / name).symlink_to(tmp_path / "blobs" / name)
    assert torch.equal(open_onnx(snapshot / "a.onnx").held("one"), torch.from_numpy(WEIGHT))


def test_numbers_that_do_not_begin_at_a_multiple_of_their_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "numbers").write_bytes(b"abc" + WEIGHT.tobytes())
    onnx.save(proto(outside("one", [20, 20], offset=3), numpy_helper.from_array(WEIGHT, "two")), tmp_path / "a.onnx")
    assert torch.equal(open_onnx(tmp_path / "a.onnx").held("one"), torch.from_numpy(WEIGHT))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_of_every_type_are_views_of_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    from fxmap.sources.onnx.records.outside import take_outside
    from fxmap.sources.onnx.records.values import DTYPES

    value = torch.arange(2048).reshape(2, 1024).to(dtype)
    (tmp_path / "numbers").write_bytes(value.view(torch.uint8).numpy().tobytes())
    number = next(number for number, one in DTYPES.items() if one is dtype)
    found = take_outside(proto(outside("one", [2, 1024], number)), tmp_path / "a.onnx")
    assert torch.equal(found["one"], value)


def test_small_numbers_and_those_of_constants_are_read_into_the_model(tmp_path: Path) -> None:
    (tmp_path / "numbers").write_bytes(WEIGHT.tobytes() + np.array([3], dtype=np.float32).tobytes() + bytes([0x21, 0x43]))
    made = proto(outside("small", [1], offset=1600), outside("four", [4], onnx.TensorProto.INT4, offset=1601))
    made.graph.node.append(helper.make_node("Constant", [], ["one"], value=outside("any", [20, 20])))
    onnx.save(made, tmp_path / "a.onnx")
    read = onnx.load(tmp_path / "a.onnx", load_external_data=False)
    from fxmap.sources.onnx.records.outside import has_outside, take_outside

    assert has_outside(read)
    assert take_outside(read, tmp_path / "a.onnx") == {}
    assert not has_outside(read)
    assert numpy_helper.to_array(read.graph.initializer[0]) == 3
    np.testing.assert_array_equal(numpy_helper.to_array(read.graph.node[-1].attribute[0].t), WEIGHT)


def test_a_model_in_memory_whose_numbers_were_left_in_a_file_is_refused_by_name(tmp_path: Path) -> None:
    read = onnx.load(saved(tmp_path), load_external_data=False)
    with pytest.raises(fxmap.CheckpointError, match=r"one: its numbers lie in another file, 'numbers'.*give the path"):
        fxmap.auto_map(read, Two())


def test_a_proof_of_what_lies_in_a_large_file_draws_its_weights_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fxmap.api import runnable
    from fxmap.run.deferred import Deferred
    from fxmap.run.streamed import LEAST

    assert not isinstance(next(runnable.runnable(open_onnx(saved(tmp_path)), Two(), None)[0].parameters()), Deferred)
    monkeypatch.setattr(runnable, "_LARGE", 100)
    monkeypatch.setattr("fxmap.run.streamed.LEAST", 100)
    assert LEAST > 100
    one, other = runnable.runnable(open_onnx(saved(tmp_path)), Two(), None)
    assert isinstance(one, nn.Module)
    assert all(isinstance(value, Deferred) for value in (*one.parameters(), *other.parameters()))
    assert fxmap.load(Two(), saved(tmp_path)).ok
