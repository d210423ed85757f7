"""Files that take images with channels last are mapped into models that take channels first."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.sources.onnx.model import OnnxModel
from fxmap.sources.onnx.spellings.norms import written_out

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper, reference  # noqa: E402 - after importorskip

RNG = np.random.default_rng(0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
        return y


def channels_last() -> Any:
    """Make what Keras' exporters write: turned before and behind each convolution, a norm as a product and sums."""
    held = {
        "kernel": RNG.standard_normal((8, 3, 3, 3)), "mean": RNG.standard_normal((1, 1, 1, 8)),
        "factor": RNG.uniform(0.5, 1.5, (1, 1, 1, 8)), "beta": RNG.standard_normal((1, 1, 1, 8)),
        "fc": RNG.standard_normal((8, 5)), "fc_bias": RNG.standard_normal(5),
    }  # fmt: skip
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["a", "kernel"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 2, 3, 1]),
        helper.make_node("Sub", ["c", "mean"], ["d"]),
        helper.make_node("Mul", ["d", "factor"], ["e"]),
        helper.make_node("Add", ["e", "beta"], ["f"]),
        helper.make_node("Relu", ["f"], ["g"]),
        helper.make_node("ReduceMean", ["g", "axes"], ["h"], keepdims=0),
        helper.make_node("Gemm", ["h", "fc", "fc_bias"], ["y"]),
    ]
    made = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in held.items()]
    made.append(numpy_helper.from_array(np.array([1, 2]), "axes"))
    info = [helper.make_tensor_value_info(*one) for one in (("x", 1, [2, 9, 10, 3]), ("y", 1, [2, 5]))]
    graph = helper.make_graph(nodes, "net", info[:1], info[1:], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("given", [None, torch.randn(2, 3, 9, 10)])
def test_a_file_with_channels_last_is_loaded_into_a_model_with_channels_first(given: Tensor | None) -> None:
    proto, dst = channels_last(), Net().eval()
    mapping = fxmap.load(dst, proto, example_inputs=given)
    assert mapping.ok
    assert not mapping.missing
    assert "channels last" in str(mapping.knowledge.notes)
    x = RNG.standard_normal((2, 9, 10, 3)).astype(np.float32)
    (expected,) = reference.ReferenceEvaluator(proto).run(None, {"x": x})
    found = dst(torch.from_numpy(x).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_file_is_run_with_channels_last_unless_it_is_told_otherwise() -> None:
    model, x = OnnxModel(channels_last()), torch.randn(2, 9, 10, 3)
    before = model(x)
    model.channels_first = True
    assert torch.equal(model(x.permute(0, 3, 1, 2)), before)
    assert model.example_inputs()["x"].shape == (2, 3, 9, 10)
    with pytest.raises(ValueError, match="declares the shape"):
        model(x)


def test_norms_that_are_written_out_fill_norms_and_are_folded_where_there_is_none() -> None:
    proto, plain = channels_last(), Net().eval()
    plain.norm = nn.Identity()  # type: ignore[assignment]
    held = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in proto.graph.initializer}
    mapping = fxmap.load(plain, proto)
    assert mapping.ok
    factor, mean, beta = (held[name].flatten() for name in ("factor", "mean", "beta"))
    torch.testing.assert_close(plain.conv.weight, held["kernel"] * factor[:, None, None, None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain.conv.bias, beta - mean * factor, rtol=1e-4, atol=1e-5)


def test_a_file_with_channels_last_is_filled_from_a_model_with_channels_first(tmp_path: Any) -> None:
    onnx.save(channels_last(), tmp_path / "a.onnx")
    src = Net().eval()
    torch.save(src.state_dict(), tmp_path / "w.pth")
    mapping = fxmap.convert(tmp_path / "w.pth", tmp_path / "b.onnx", dst=tmp_path / "a.onnx", src=src)
    assert mapping.proof.ok, str(mapping)  # it has no place for a variance, which is part of the factor
    x = RNG.standard_normal((2, 9, 10, 3)).astype(np.float32)
    (found,) = reference.ReferenceEvaluator(onnx.load(tmp_path / "b.onnx")).run(None, {"x": x})
    expected = src(torch.from_numpy(x).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def padded() -> Any:
    """Make a graph that pads, joins, gates and averages on turned maps, with a kernel that is turned in the graph."""
    held = {
        "kernel": RNG.standard_normal((3, 3, 3, 1)), "bias": RNG.standard_normal((1, 1, 1, 3)),
        "wide": RNG.standard_normal((4, 6, 1, 1)), "half": np.array(0.5), "gate": RNG.standard_normal((6, 6, 1, 1)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 3, 1, 2]),
        helper.make_node("Reshape", ["kernel", "shape"], ["k"]),
        helper.make_node("Transpose", ["k"], ["l"], perm=[3, 2, 0, 1]),
        helper.make_node("Conv", ["b", "l"], ["c"], group=3),
        helper.make_node("Transpose", ["c"], ["d"], perm=[0, 2, 3, 1]),
        helper.make_node("Add", ["d", "bias"], ["e"]),
        helper.make_node("Sigmoid", ["e"], ["f"]),
        helper.make_node("Concat", ["e", "f"], ["g"], axis=3),
        helper.make_node("ReduceMean", ["g", "axes"], ["h"], keepdims=1),
        helper.make_node("Transpose", ["h"], ["i"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["i", "gate"], ["j"]),
        helper.make_node("Transpose", ["j"], ["m"], perm=[0, 2, 3, 1]),
        helper.make_node("Mul", ["g", "m"], ["n"]),
        helper.make_node("Sub", ["n", "half"], ["o"]),
        helper.make_node("Transpose", ["o"], ["p"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["p", "wide"], ["q"]),
        helper.make_node("Transpose", ["q"], ["y"], perm=[0, 2, 3, 1]),
    ]
    made = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in held.items()]
    integers = {"axes": [1, 2], "pads": [0, 1, 2, 0, 0, 3, 0, 0], "shape": [3, 3, 1, 3]}
    made += [numpy_helper.from_array(np.array(value), name) for name, value in integers.items()]
    info = [helper.make_tensor_value_info(*one) for one in (("x", 1, [2, 9, 10, 3]), ("y", 1, None))]
    graph = helper.make_graph(nodes, "net", info[:1], info[1:], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def dense() -> Any:
    """Make what Keras' exporters write of a block that joins maps and normalises them before a layer."""
    held = {
        "first": RNG.standard_normal((4, 3, 1, 1)), "mean": RNG.standard_normal((1, 1, 1, 8)),
        "factor": RNG.uniform(0.5, 1.5, (1, 1, 1, 8)), "beta": RNG.standard_normal((1, 1, 1, 8)),
        "second": RNG.standard_normal((5, 8, 1, 1)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["a", "first"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 2, 3, 1]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Concat", ["c", "s"], ["d"], axis=3),
        helper.make_node("Sub", ["d", "mean"], ["e"]),
        helper.make_node("Mul", ["e", "factor"], ["f"]),
        helper.make_node("Add", ["f", "beta"], ["g"]),
        helper.make_node("Relu", ["g"], ["h"]),
        helper.make_node("Transpose", ["h"], ["i"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["i", "second"], ["j"]),
        helper.make_node("ReduceMean", ["j", "axes"], ["y"], keepdims=0),
    ]
    made = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in held.items()]
    made.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    info = [helper.make_tensor_value_info(*one) for one in (("x", 1, [2, 9, 10, 3]), ("y", 1, [2, 5]))]
    graph = helper.make_graph(nodes, "net", info[:1], info[1:], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.second = nn.Conv2d(8, 5, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        joined = torch.cat([first, first.sigmoid()], 1)
        y: Tensor = self.second(torch.relu(self.norm(joined))).mean((2, 3))
        return y


def test_a_norm_that_is_written_out_before_a_layer_fills_the_norm() -> None:
    proto, dst = dense(), Dense().eval()
    assert fxmap.load(dst, proto).ok
    x = torch.randn(2, 9, 10, 3)
    with torch.no_grad():
        torch.testing.assert_close(dst(x.permute(0, 3, 1, 2)), OnnxModel(proto)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [channels_last, padded, dense])
def test_what_is_computed_with_channels_first_is_what_the_reference_computes(make: Any) -> None:
    proto = make()
    x = RNG.standard_normal((2, 9, 10, 3)).astype(np.float32)
    (expected,) = reference.ReferenceEvaluator(proto).run(None, {"x": x})
    model = OnnxModel(proto)
    np.testing.assert_allclose(model(torch.from_numpy(x)).numpy(), expected, rtol=1e-4, atol=1e-4)
    model.read_as_source()
    np.testing.assert_allclose(model(torch.from_numpy(x)).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_model_that_was_read_as_a_source_is_not_written(tmp_path: Any) -> None:
    model = OnnxModel(padded())
    model.read_as_source()
    assert model.state_dict()["kernel"].shape == (3, 1, 3, 3)
    with pytest.raises(fxmap.CheckpointError, match="open the file anew"):
        model.save(tmp_path / "a.onnx")


@pytest.mark.parametrize(("steps", "is_norm"), [(["Mul"], False), (["Mul", "Add"], True), (["Sub", "Mul"], True)])
def test_a_factor_behind_a_layer_is_the_scale_of_a_block_unless_something_is_added_or_subtracted(
    steps: list[str], is_norm: bool
) -> None:
    held = {"w": torch.ones(4, 2, 3, 3), "b": torch.ones(4)} | {step: torch.ones(4, 1, 1) for step in steps}
    nodes, last = [helper.make_node("Conv", ["x", "w", "b"], ["y"])], "y"
    for step in steps:
        nodes.append(helper.make_node(step, [last, step], [f"{last}'"]))
        last = f"{last}'"
    assert bool(written_out(nodes, held, [last])) == is_norm
