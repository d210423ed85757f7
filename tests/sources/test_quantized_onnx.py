"""Quantized ONNX (QDQ) as a source: into int8 models of torch with integers and ranges, and into float ones dequantized."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import DeQuantStub, QuantStub, convert, fuse_modules, get_default_qconfig, prepare

import fxmap
from fxmap.sources.onnx.model import OnnxModel, open_onnx

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper, reference  # noqa: E402 - after importorskip

pytestmark = pytest.mark.filterwarnings("ignore")
RNG = np.random.default_rng(0)
X = torch.from_numpy(RNG.standard_normal((4, 3, 8, 8)).astype(np.float32))
DRAWN = RNG.bit_generator.state


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant, self.relu = QuantStub(), DeQuantStub(), nn.ReLU()
        self.conv, self.norm, self.pool, self.fc = (
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.AdaptiveAvgPool2d(1),
            nn.Linear(8, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norm(self.conv(self.quant(x)))))
        y: Tensor = self.dequant(self.fc(torch.flatten(x, 1)))
        return y


class File:
    """A QDQ file as onnxruntime writes it: a relu is left out where the range behind it starts at 0."""

    def __init__(
        self,
        per_channel: bool = True,
        signed: bool = False,
        float_weights: bool = False,
        before_relu: tuple[float, float] | None = None,
        behind_relu: tuple[float, float] = (0.0, 25.0),
    ) -> None:
        self.per_channel, self.float_weights = per_channel, float_weights
        self.before_relu, self.behind_relu = before_relu, behind_relu
        self.kind = np.int8 if signed else np.uint8
        self.nodes: list[Any] = []
        self.values: dict[str, Any] = {}

    def pair(self, x: str, low: float, high: float) -> str:
        least = np.iinfo(self.kind).min
        scale = np.float32((high - low) / 255)
        self.values |= {f"{x}_scale": scale, f"{x}_zero_point": np.array(least + round(-low / scale), self.kind)}
        self.add("QuantizeLinear", [x, f"{x}_scale", f"{x}_zero_point"], f"{x}_q")
        return self.add("DequantizeLinear", [f"{x}_q", f"{x}_scale", f"{x}_zero_point"], f"{x}_dq")

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, name: str, value: Any) -> str:
        axes = tuple(range(1, value.ndim)) if self.per_channel else None
        scale = (np.abs(value).max(axes) / 127).astype(np.float32)
        shaped = scale.reshape(-1, *[1] * (value.ndim - 1)) if self.per_channel else scale
        integers = np.clip(np.round(value / shaped), -127, 127).astype(np.int8)
        axis = {"axis": 0} if self.per_channel else {}
        self.values |= {f"{name}_scale": scale, f"{name}_zero_point": np.zeros_like(scale, dtype=np.int8)}
        if self.float_weights:
            self.values[name] = integers * shaped
            self.add("QuantizeLinear", [name, f"{name}_scale", f"{name}_zero_point"], f"{name}_quantized", **axis)
        else:
            self.values[f"{name}_quantized"] = integers
        parts = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
        return self.add("DequantizeLinear", parts, f"{name}_dq", **axis)

    def bias(self, name: str, value: Any, x: str, weight: str) -> str:
        scale = np.asarray(self.values[f"{x}_scale"] * self.values[f"{weight}_scale"], np.float32)
        self.values |= {f"{name}_quantized": np.round(value / scale).astype(np.int32), f"{name}_quantized_scale": scale}
        axis = {"axis": 0} if self.per_channel else {}
        return self.add("DequantizeLinear", [f"{name}_quantized", f"{name}_quantized_scale"], f"{name}_dq", **axis)

    def proto(self, opset: int = 21) -> Any:
        normal = RNG.standard_normal
        x = self.pair("x", -4.0, 4.0)
        weight = self.weight("c.w", normal((8, 3, 3, 3)))
        y = self.add("Conv", [x, weight, self.bias("c.b", normal(8), "x", "c.w")], "y")
        if self.before_relu is not None:
            y = self.add("Relu", [self.pair(y, *self.before_relu)], "r")
        pooled = self.add("GlobalAveragePool", [self.pair(y, *self.behind_relu)], "pooled")
        flat = self.add("Flatten", [self.pair(pooled, 0.0, 8.0)], "flat")
        head = self.weight("f.w", normal((4, 8)))
        self.add("Gemm", [flat, head, self.bias("f.b", normal(4), "pooled", "f.w")], "z", transB=1)
        out = self.pair("z", -25.0, 25.0)
        given = helper.make_tensor_value_info("x", 1, list(X.shape))
        returned = helper.make_tensor_value_info(out, 1, None)
        held = [
            numpy_helper.from_array(np.asarray(value, getattr(value, "dtype", None)), name)
            for name, value in self.values.items()
        ]
        held = [
            numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float32), one.name) if one.data_type == 11 else one
            for one in held
        ]
        return helper.make_model(
            helper.make_graph(self.nodes, "net", [given], [returned], held), opset_imports=[helper.make_opsetid("", opset)]
        )


def int8(seed: int, fused: tuple[str, ...] = ("conv", "norm", "relu")) -> nn.Module:
    torch.manual_seed(seed)
    made = fuse_modules(Net().eval(), [list(fused)])
    made.qconfig = get_default_qconfig("fbgemm")
    prepare(made, inplace=True)
    made(X * 0.1)
    return convert(made)


def expected_of(proto: Any) -> Any:
    return reference.ReferenceEvaluator(proto).run(None, {"x": X.numpy()})[0]


def error(model: nn.Module, proto: Any) -> float:
    expected = torch.from_numpy(expected_of(proto))
    with torch.no_grad():
        return float((model(X) - expected).abs().max() / expected.abs().max())


@pytest.fixture(autouse=True)
def _engine() -> Any:
    RNG.bit_generator.state = DRAWN  # the same files in whatever order tests run: how far int8 is off depends on the numbers
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    yield
    torch.backends.quantized.engine = before


FILES: list[dict[str, Any]] = [{}, {"per_channel": False}, {"signed": True}, {"float_weights": True}]


@pytest.mark.parametrize("options", FILES, ids=lambda options: "-".join(options) or "usual")
def test_a_float_model_takes_the_dequantized_weights_and_is_proven(options: dict[str, Any]) -> None:
    proto, dst = File(**options).proto(), Net().eval()
    mapping = fxmap.load(dst, proto)
    assert mapping.ok
    assert not mapping.missing
    assert error(dst, proto) < 0.02
    if "float_weights" not in options:
        assert set(mapping["conv.weight"].sources()) == {"c.w_quantized", "c.w_scale", "c.w_zero_point"}


@pytest.mark.parametrize("options", FILES, ids=lambda options: "-".join(options) or "usual")
def test_an_int8_model_takes_integers_and_ranges(options: dict[str, Any], tmp_path: Path) -> None:
    proto, dst = File(**options).proto(), int8(1)
    onnx.save(proto, tmp_path / "q.onnx")
    mapping = fxmap.load(dst, tmp_path / "q.onnx")
    assert mapping.ok
    assert not mapping.missing
    assert set(mapping["conv.scale"].sources()) == {"y_scale"}
    with torch.no_grad():
        found, expected = dst(X), torch.from_numpy(expected_of(proto))
    step = float(dst.state_dict()["fc.scale"])
    assert float((found - expected).abs().max()) < 1.5 * step  # the pool rounds elsewhere
    if not options:
        held = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
        assert np.array_equal(dst.state_dict()["conv.weight"].int_repr().numpy(), held["c.w_quantized"])


@pytest.mark.parametrize("high", [25.0, 12.0, 2.0])
def test_a_range_behind_a_relu_that_cuts_off_does_so_in_an_int8_model_with_one_range_for_both(high: float) -> None:
    proto, dst = File(before_relu=(-25.0, 25.0), behind_relu=(0.0, high)).proto(), int8(1, ("conv", "norm"))
    mapping = fxmap.load(dst, proto)
    assert mapping.ok
    assert error(dst, proto) < 0.1  # a step of the output is 0.08 of these; without the cut at 2 it is 2.2
    assert float(dst.state_dict()["conv.scale"]) == pytest.approx(high / 255)


def test_a_range_before_a_relu_that_cuts_off_is_not_left_out() -> None:
    proto, dst = File(before_relu=(-25.0, 1.0), behind_relu=(0.0, 12.0)).proto(), int8(1)
    with pytest.raises(fxmap.MissingCalibration):
        fxmap.load(dst, proto)
    notes = " ".join(str(note) for note in fxmap.auto_map(proto, dst).knowledge.notes)
    assert "cuts values off before relu" in notes
    assert fxmap.load(dst, File(before_relu=(-25.0, 12.0), behind_relu=(0.0, 12.0)).proto()).ok


def test_a_relu_that_was_left_out_is_one_again() -> None:
    class Without(Net):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(torch.flatten(self.pool(self.norm(self.conv(x))), 1))
            return y

    mapping = fxmap.auto_map(File().proto(), Without().eval())
    assert not mapping.ok


@pytest.mark.parametrize("block", [0, 4])
def test_weights_of_four_bits_and_of_blocks_are_dequantized_when_they_are_read(block: int) -> None:
    integers = RNG.integers(-7, 8, (8, 4)).astype(np.int8)
    scale = np.abs(RNG.standard_normal((2, 4) if block else 4)).astype(np.float32)
    held = [
        helper.make_tensor("w", onnx.TensorProto.INT4, [8, 4], integers.flatten().tolist()),
        numpy_helper.from_array(scale, "s"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=0 if block else 1, block_size=block),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    info = [helper.make_tensor_value_info("x", 1, [2, 8]), helper.make_tensor_value_info("y", 1, [2, 4])]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], held)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    dst = nn.Linear(8, 4, bias=False)
    mapping = fxmap.load(dst, proto)
    assert mapping.ok
    x = RNG.standard_normal((2, 8)).astype(np.float32)
    (expected,) = reference.ReferenceEvaluator(proto).run(None, {"x": x})
    np.testing.assert_allclose(dst(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_quantize_and_dequantize_compute_what_the_reference_does(kind: Any, axis: int | None) -> None:
    shape = () if axis is None else (3, 5)[axis : axis + 1]
    scale = np.float32(RNG.uniform(0.01, 0.05, shape))
    zero = RNG.integers(5, 9, shape).astype(kind)
    given = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **given),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **given),
    ]
    info = [helper.make_tensor_value_info(name, 1, [3, 5]) for name in "xy"]
    held = [numpy_helper.from_array(np.asarray(scale), "s"), numpy_helper.from_array(np.asarray(zero), "z")]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", info[:1], info[1:], held), opset_imports=[helper.make_opsetid("", 21)]
    )
    x = RNG.standard_normal((3, 5)).astype(np.float32)
    (expected,) = reference.ReferenceEvaluator(proto).run(None, {"x": x})
    np.testing.assert_allclose(OnnxModel(proto)(torch.from_numpy(x)).numpy(), expected, atol=1e-6)


def test_a_quantized_file_is_no_destination_and_says_so(tmp_path: Path) -> None:
    onnx.save(File().proto(), tmp_path / "q.onnx")
    torch.save(Net().state_dict(), tmp_path / "w.pth")
    with pytest.raises(fxmap.CheckpointError, match="quantized"):
        fxmap.convert(tmp_path / "w.pth", tmp_path / "new.onnx", dst=tmp_path / "q.onnx", src=Net().eval())
    with pytest.raises(fxmap.CheckpointError, match="quantized"):
        open_onnx(tmp_path / "q.onnx").save(tmp_path / "new.onnx")


def bound_of(made: Any) -> Tensor:
    """Return by how much outputs may differ where another kernel computes means: by what is at a border of rounding.

    A mean that lies in the middle between two integers (18 of 36 is nothing rare) becomes one or the other, as its last bit
    in float32 is. Such a step of the pool goes through the weights of the last layer; rounding its sum adds one step.
    """
    conv = made.conv(made.quant(X))
    means = (conv.int_repr().double() - conv.q_zero_point()).mean((2, 3))
    at_border = ((means - means.floor() - 0.5).abs() < 1e-3).double()
    weight = made.fc.weight().dequantize().double().abs()
    return 1.01 * (at_border * conv.q_scale()) @ weight.T + 1.01 * float(made.fc.scale)


@pytest.mark.parametrize("dynamo", [False, True])
def test_what_torch_exports_is_loaded_with_integers_and_ranges(dynamo: bool, tmp_path: Path) -> None:
    src, file = int8(0), tmp_path / "q.onnx"
    if dynamo:
        pytest.importorskip("onnxscript")
        quantizers = pytest.importorskip("torchao.testing.pt2e._xnnpack_quantizer")
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        config = quantizers.get_symmetric_quantization_config(is_per_channel=True)
        prepared = prepare_pt2e(
            torch.export.export(Net().eval(), (X,)).module(), quantizers.XNNPACKQuantizer().set_global(config)
        )
        prepared(X)
        src = convert_pt2e(prepared)
    torch.onnx.export(src, (X,), str(file), dynamo=dynamo, **({"verbose": False} if dynamo else {"opset_version": 17}))
    dst = int8(1)
    mapping = fxmap.load(dst, file)
    assert mapping.ok
    with torch.no_grad():
        difference = (dst(X) - src(X)).abs()
    assert bool((difference <= bound_of(dst)).all())
    assert float(bound_of(dst).mean()) < 3 * float(dst.state_dict()["fc.scale"])
