"""Tables of the code in ONNX files are no weights, and bounds are read as what was meant."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxmap.sources.onnx.model import OnnxModel
from fxmap.sources.onnx.ops.elementwise import ELEMENTWISE
from fxmap.sources.onnx.spellings.tables import tables_of_code

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402 - after importorskip

RNG = np.random.default_rng(0)
CLIPPED = torch.tensor([1e-12], dtype=torch.float64)  # as is meant by the nearest number in single precision
GRID, RATES = torch.arange(1, 6.0)[:, None], 10 ** (torch.arange(4.0) / 4)


class Positions(nn.Module):
    """Adds positions that a layer makes of sines, and turns rows to unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.fc = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        made = self.positions((GRID / RATES).sin().to(x.dtype))
        y: Tensor = self.fc(F.normalize(x + made, dim=-1))
        return y


def positions() -> Any:
    """Make what torch's older exporter writes of such a model."""
    rows = [
        ("Div", ["/p/Constant_output_0", "/p/Constant_1_output_0"], "a"),
        ("Sin", ["a"], "b"),
        ("MatMul", ["b", "onnx::MatMul_9"], "c"),
        ("Add", ["positions.bias", "c"], "d"),
        ("Add", ["x", "d"], "e"),
        ("ReduceL2", ["e", "axes"], "f"),
        ("Clip", ["f", "/Constant_2_output_0"], "g"),
        ("Shape", ["e"], "s"),
        ("Expand", ["g", "s"], "h"),
        ("Div", ["e", "h"], "i"),
        ("Gemm", ["i", "fc.weight", "fc.bias"], "y"),
    ]
    nodes = [
        helper.make_node(kind, inputs, [output], **({"transB": 1} if kind == "Gemm" else {}))
        for kind, inputs, output in rows
    ]
    held = {
        "/p/Constant_output_0": GRID.numpy(), "/p/Constant_1_output_0": RATES.numpy(),
        "/Constant_2_output_0": np.array(1e-12), "onnx::MatMul_9": RNG.standard_normal((4, 3)),
        "positions.bias": RNG.standard_normal(3), "fc.weight": RNG.standard_normal((2, 3)),
        "fc.bias": RNG.standard_normal(2),
    }  # fmt: skip
    made = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in held.items()]
    made.append(numpy_helper.from_array(np.array([-1]), "axes"))
    info = [helper.make_tensor_value_info(name, 1, [5, extent]) for name, extent in (("x", 3), ("y", 2))]
    graph = helper.make_graph(nodes, "net", info[:1], info[1:], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_tables_of_which_a_layer_makes_positions_are_no_weights() -> None:
    model, dst = OnnxModel(positions()), Positions()
    assert sorted(model.paths) == ["fc.bias", "fc.weight", "onnx::MatMul_9", "positions.bias"]
    state = {"fc.bias": "fc.bias", "fc.weight": "fc.weight", "positions.bias": "positions.bias"}
    dst.load_state_dict({key: model.held(name) for key, name in state.items()}, strict=False)
    with torch.no_grad():
        dst.positions.weight.copy_(model.held("onnx::MatMul_9").T)
    x = torch.randn(5, 3)
    torch.testing.assert_close(dst(x), model(x))
    assert torch.equal(ELEMENTWISE["Clip"](torch.zeros(1, dtype=torch.float64), torch.tensor(1e-12)), CLIPPED)


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [("Add", ["x", "t"]), ("Mul", ["w", "t"]), ("Reshape", ["t", "shape"])],
    ids=["input", "weight", "moved"],
)
def test_a_table_that_joins_an_input_or_a_weight_or_is_only_moved_is_a_weight(kind: str, inputs: list[str]) -> None:
    node = helper.make_node(kind, inputs, ["y"])
    assert tables_of_code([node, helper.make_node("Add", ["x", "y"], ["z"])], {"t"}, {"x", "w"}) == set()


def test_a_table_that_another_reader_adds_to_an_input_is_a_weight() -> None:
    nodes = [helper.make_node("Sin", ["t"], ["a"]), helper.make_node("Add", ["x", "t"], ["y"])]
    assert tables_of_code(nodes, {"t"}, {"x"}) == set()
