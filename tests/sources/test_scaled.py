"""Files that scale their images first, as Keras' applications do, loaded into models that are given scaled ones."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.sources.onnx.model import OnnxModel
from fxmap.sources.scaled import scales_itself

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper, reference  # noqa: E402 - after importorskip

RNG = np.random.default_rng(0)


def net(*, last: bool = True) -> Any:
    """Make a file that scales its image and pads it before its layer, with channels last or first."""
    channels = [1, 1, 1, 3] if last else [1, 3, 1, 1]
    held = {
        "s": np.array(1 / 255), "mean": RNG.uniform(0.4, 0.6, channels), "std": RNG.uniform(0.2, 0.3, channels),
        "kernel": RNG.standard_normal((4, 3, 3, 3)), "fc": RNG.standard_normal((4, 5)),
    }  # fmt: skip
    turn = helper.make_node("Transpose", ["p"], ["q"], perm=[0, 3, 1, 2] if last else [0, 1, 2, 3])
    nodes = [
        helper.make_node("Mul", ["x", "s"], ["a"]),
        helper.make_node("Sub", ["a", "mean"], ["b"]),
        helper.make_node("Div", ["b", "std"], ["c"]),
        helper.make_node("Pad", ["c", "pads"], ["p"]),
        turn,
        helper.make_node("Conv", ["q", "kernel"], ["d"], strides=[2, 2]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("ReduceMean", ["e", "axes"], ["f"], keepdims=0),
        helper.make_node("MatMul", ["f", "fc"], ["y"]),
    ]
    pads = [0, 0, 0, 0, 0, 1, 1, 0] if last else [0, 0, 0, 0, 0, 0, 1, 1]
    made = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in held.items()]
    made += [numpy_helper.from_array(np.array(value), name) for name, value in (("axes", [2, 3]), ("pads", pads))]
    info = [
        helper.make_tensor_value_info("x", 1, [2, 8, 8, 3] if last else [2, 3, 8, 8]),
        helper.make_tensor_value_info("y", 1, [2, 5]),
    ]
    graph = helper.make_graph(nodes, "net", info[:1], info[1:], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.Linear(4, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, 1, 0, 1))
        y: Tensor = self.fc(torch.relu(self.conv(x)).mean((2, 3)))
        return y


class Scaling(Net):
    """Scales its images by itself, by other numbers than the file's."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x / 127.5) - 1)


@pytest.mark.parametrize("last", [True, False])
def test_a_model_is_given_what_the_file_makes_of_an_image_first_and_load_says_so(last: bool) -> None:
    proto, dst = net(last=last), Net().eval()
    with pytest.warns(fxmap.ProofWarning, match=r"scales its input first: \(x \* 0\.003922 - \[0\..*\]\) / \[0\."):
        mapping = fxmap.load(dst, proto)
    assert mapping.ok, mapping.proof
    assert not mapping.missing
    assert not mapping.unexpected
    assert "scales its input first" in str(mapping.proof)
    held = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    x = RNG.uniform(0, 255, (2, 8, 8, 3) if last else (2, 3, 8, 8)).astype(np.float32)
    (expected,) = reference.ReferenceEvaluator(proto).run(None, {"x": x})
    scaled = torch.from_numpy((x * held["s"] - held["mean"]) / held["std"])
    found = dst(scaled.permute(0, 3, 1, 2) if last else scaled).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_a_model_that_scales_its_images_by_itself_is_compared_whole() -> None:
    mapping = fxmap.auto_map(net(), Scaling().eval())
    assert not mapping.ok
    assert "scales its input first" not in str(mapping.knowledge.notes)


def test_a_mapping_is_verified_with_scaled_images_and_a_wrong_one_is_refuted() -> None:
    right = fxmap.auto_map(net(), Net().eval(), verify=False)
    proof = fxmap.verify(net(), Net().eval(), right)
    assert proof.ok
    assert "scales its input first" in str(proof)


def test_a_file_without_its_scaling_is_what_the_reference_computes_behind_it() -> None:
    proto = net()
    model = OnnxModel(proto)
    model.leave_out_scaling()
    assert sorted(model.state_dict()) == ["fc", "kernel"]
    held = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in proto.graph.initializer}
    x = torch.rand(2, 8, 8, 3) * 255
    scaled = (x * held["s"] - held["mean"]) / held["std"]
    torch.testing.assert_close(model(scaled), OnnxModel(proto)(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(fxmap.CheckpointError, match="open the file anew"):
        model.save("anywhere.onnx")


@pytest.mark.parametrize(
    ("forward", "scales"),
    [
        (lambda x: x * 2, True),
        (lambda x: x[:, :1] + 1, True),
        (lambda x: x.float().sub(0.5), True),
        (lambda x: nn.functional.pad(x, (1, 1)).relu() * 2, False),
        (lambda x: x.flatten(1) @ torch.ones(192, 2), False),
        (lambda x: x.missing, None),
    ],
)
def test_arithmetic_on_the_input_itself_is_told_from_that_on_what_layers_make(forward: Any, scales: bool | None) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = forward(x)
            return result

    assert scales_itself(Model(), torch.ones(2, 3, 8, 8)) is scales
