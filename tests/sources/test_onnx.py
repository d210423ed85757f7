"""ONNX: operators beside the reference implementation, and models exported by torch, mapped and proven."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.sources.onnx.model import OnnxModel, open_onnx
from fxmap.sources.onnx.records.values import exact
from fxmap.testing.planted import randomised

onnx = pytest.importorskip("onnx")
from onnx import helper, reference  # noqa: E402 - after importorskip

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
F32 = onnx.TensorProto.FLOAT
RNG = np.random.default_rng(0)


def numbers(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


X4, X3, X2 = numbers(2, 4, 9, 8), numbers(2, 5, 6), numbers(3, 4)
# Operator, inputs, attributes: those of the standard whose defaults or layouts differ from torch's.
CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("Conv", [X4, numbers(6, 2, 3, 3), numbers(6)], {"group": 2, "pads": [1, 0, 1, 2], "strides": [2, 1]}),
    ("Conv", [X4, numbers(6, 4, 3, 2)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [X4, numbers(6, 4, 3, 3)], {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
    ("ConvTranspose", [X4, numbers(4, 3, 3, 3)], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    ("ConvTranspose", [X4, numbers(4, 3, 3, 3)], {"pads": [0, 1, 1, 0]}),
    ("MaxPool", [X4], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    ("MaxPool", [X4], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", [X4], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("AveragePool", [X4], {"kernel_shape": [2, 3], "pads": [0, 1, 1, 0]}),
    ("AveragePool", [X4], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("GlobalAveragePool", [X4], {}),
    ("BatchNormalization", [X4, numbers(4), numbers(4), numbers(4), np.abs(numbers(4))], {"epsilon": 1e-3}),
    ("InstanceNormalization", [X4, numbers(4), numbers(4)], {}),
    ("LayerNormalization", [X3, numbers(6), numbers(6)], {"epsilon": 1e-3}),
    ("LayerNormalization", [X3, numbers(5, 6)], {"axis": 1}),
    ("GroupNormalization", [X4, numbers(4), numbers(4)], {"num_groups": 2}),
    ("RMSNormalization", [X3, numbers(6)], {}),
    ("Gemm", [X2, numbers(4, 5), numbers(5)], {"alpha": 0.5, "beta": 2.0}),
    ("Gemm", [numbers(4, 3), numbers(5, 4)], {"transA": 1, "transB": 1}),
    ("Einsum", [X3, numbers(6, 7)], {"equation": "bij,jk->bik"}),
    ("Softmax", [X3], {"axis": 1}),
    ("ReduceMean", [X3, ints(1)], {"keepdims": 0}),
    ("ReduceL2", [X3, ints(-1)], {}),
    ("ReduceLogSumExp", [X3, ints(0, 2)], {"keepdims": 0}),
    ("ReduceProd", [X3, ints(0, 2)], {"keepdims": 0}),
    ("ArgMax", [X3], {"axis": 2, "keepdims": 0}),
    ("CumSum", [X3, np.array(1, dtype=np.int64)], {"exclusive": 1, "reverse": 1}),
    ("Slice", [X3, ints(-1, 1), ints(-100, 5), ints(1, 2), ints(-2, 2)], {}),
    ("Split", [X3, ints(2, 3)], {"axis": 1}),
    ("Gather", [X3, ints(-1, 0, 2)], {"axis": 1}),
    ("Gather", [numbers(7, 3), np.array([[1, 6], [0, -1]])], {}),
    ("GatherElements", [X2, np.array([[0, 2, 1, -1], [1, -1, 0, 2]])], {}),
    ("GatherND", [X3, np.array([[0, 1], [1, 4]])], {}),
    ("ScatterElements", [X2, np.array([[0, 2, 1, 0]]), numbers(1, 4)], {}),
    ("ScatterND", [X3, np.array([[0, 1], [1, 4]]), numbers(2, 6)], {}),
    ("Pad", [X3, ints(1, 0, 2, 0, 1, 0), np.array(0.5, dtype=np.float32)], {}),
    ("Pad", [X3, ints(0, 1, 2, 0, 1, 0)], {"mode": "reflect"}),
    ("Reshape", [X3, ints(0, -1, 3)], {}),
    ("Expand", [numbers(3, 1), ints(2, 1, 4)], {}),
    ("Tile", [X2, ints(2, 3)], {}),
    ("Transpose", [X3], {"perm": [2, 0, 1]}),
    ("Trilu", [X2], {"upper": 0}),
    ("DepthToSpace", [X4], {"blocksize": 2}),
    ("DepthToSpace", [X4], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [numbers(1, 2, 4, 6)], {"blocksize": 2}),
    ("OneHot", [ints(0, 2, -1), np.array(3), np.array([0.5, 2.0], dtype=np.float32)], {"axis": 0}),
    ("Resize", [X4, np.array([], np.float32), np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}),
    ("Resize", [X4, np.array([], np.float32), np.array([1, 1, 2, 2], np.float32)],
     {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ("Clip", [X3, np.array(-0.5, np.float32), np.array(0.25, np.float32)], {}),
    ("HardSigmoid", [X3], {}),
    ("LeakyRelu", [X3], {"alpha": 0.2}),
    ("PRelu", [X4, numbers(4, 1, 1)], {}),
    ("Gelu", [X3], {"approximate": "tanh"}),
    ("Selu", [X3], {}),
    ("Shrink", [X3], {"lambd": 0.3, "bias": 0.1}),
    ("Mod", [ints(-5, 5, 7), ints(3, -3, 4)], {}),
    ("Div", [ints(-7, 7), ints(2, -2)], {}),
    ("Pow", [np.abs(X3), np.array(1.5, np.float32)], {}),
    ("LSTM", [numbers(5, 2, 3), numbers(1, 16, 3), numbers(1, 16, 4), numbers(1, 32)], {"hidden_size": 4}),
    ("GRU", [numbers(5, 2, 3), numbers(1, 12, 3), numbers(1, 12, 4), numbers(1, 24)],
     {"hidden_size": 4, "linear_before_reset": 1}),
    ("RNN", [numbers(5, 2, 3), numbers(1, 4, 3), numbers(1, 4, 4)], {"hidden_size": 4}),
]  # fmt: skip


def model_of(operator: str, inputs: list[Any], attributes: dict[str, Any], outputs: int, opset: int = 23) -> Any:
    names = [f"in{index}" for index in range(len(inputs))]
    kinds = [helper.np_dtype_to_tensor_dtype(value.dtype) for value in inputs]
    given = [helper.make_tensor_value_info(n, k, v.shape) for n, k, v in zip(names, kinds, inputs, strict=True)]
    made = [f"out{index}" for index in range(outputs)]
    node = helper.make_node(operator, [n if v.size else "" for n, v in zip(names, inputs, strict=True)], made, **attributes)
    graph = helper.make_graph([node], "one", given, [helper.make_value_info(name, onnx.TypeProto()) for name in made])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


@pytest.mark.parametrize(("operator", "inputs", "attributes"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_an_operator_computes_what_the_reference_does(operator: str, inputs: list[Any], attributes: dict[str, Any]) -> None:
    outputs = {"Split": 2, "LSTM": 3, "GRU": 2, "RNN": 2}.get(operator, 1)
    proto = model_of(operator, inputs, attributes, outputs)
    expected = reference.ReferenceEvaluator(proto).run(
        None, {f"in{index}": value for index, value in enumerate(inputs) if value.size}
    )
    actual = OnnxModel(proto)(*(torch.from_numpy(np.asarray(value)) for value in inputs))
    for one, other in zip(actual if outputs > 1 else [actual], expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-4, atol=1e-5)


class Block(nn.Module):
    def __init__(self, channels: int, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + torch.relu(self.norm(self.conv(x)))
        return out


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), Block(8), Block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(30, 16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.embed(ids))
        q, k, v = self.qkv(x).chunk(3, -1)
        out: Tensor = self.out(torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v)
        return out


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize(
    ("build", "inputs"), [(network, torch.randn(2, 3, 16, 16)), (Attention, torch.randint(0, 30, (2, 7)))]
)
def test_an_exported_model_is_loaded_and_proven(
    build: Callable[[], nn.Module], inputs: Tensor, dynamo: bool, tmp_path: Path
) -> None:
    if dynamo:
        pytest.importorskip("onnxscript")
    src, dst, file = randomised(build(), 1).eval(), randomised(build(), 2).eval(), tmp_path / "model.onnx"
    torch.onnx.export(src, (inputs,), str(file), dynamo=dynamo, **({"verbose": False} if dynamo else {"opset_version": 17}))
    mapping = fxmap.load(dst, file, example_inputs=inputs)
    assert mapping.ok
    assert not mapping.missing
    with torch.no_grad():
        assert torch.allclose(src(inputs), dst(inputs), rtol=1e-4, atol=1e-4)


def test_a_file_is_filled_with_the_weights_of_another_model(tmp_path: Path) -> None:
    src, other = randomised(Attention(), 1).eval(), randomised(Attention(), 2).eval()
    ids = torch.randint(0, 30, (2, 7))
    torch.onnx.export(other, (ids,), str(tmp_path / "a.onnx"), dynamo=False, opset_version=17)
    dst = open_onnx(tmp_path / "a.onnx")
    fxmap.transfer(src, dst, example_inputs=ids)
    dst.save(tmp_path / "b.onnx")
    (found,) = reference.ReferenceEvaluator(str(tmp_path / "b.onnx")).run(
        None, {next(iter(dst.example_inputs())): ids.numpy()}
    )
    with torch.no_grad():
        np.testing.assert_allclose(found, src(ids).numpy(), rtol=1e-4, atol=1e-5)


def test_an_unknown_operator_is_named() -> None:
    node = helper.make_node("Inverse", ["x"], ["y"], domain="com.microsoft")
    info = [helper.make_tensor_value_info(name, F32, [2, 2]) for name in "xy"]
    proto = helper.make_model(helper.make_graph([node], "g", info[:1], info[1:]))
    with pytest.raises(fxmap.CheckpointError, match=r"com\.microsoft\.Inverse"):
        OnnxModel(proto)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07" * 100])
def test_what_is_no_onnx_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(fxmap.CheckpointError, match=r"a\.onnx"):
        fxmap.load(nn.Linear(2, 2), tmp_path / "a.onnx")


@pytest.mark.parametrize("number", [1e-5, 1e-6, 0.1, 0.044715, 1 / 3, 2**0.5, 64**-0.5, 8**-0.25, 768**-0.5, 1e-12])
def test_numbers_come_back_from_single_precision(number: float) -> None:
    assert exact(float(np.float32(number))) == pytest.approx(number, rel=1e-15)


def test_a_number_that_means_nothing_stays() -> None:
    held = float(np.float32(0.7312894561))
    assert np.float32(exact(held)) == np.float32(held)
