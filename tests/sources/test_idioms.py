"""What exporters write for one operation of torch is read as that one: here what jax2onnx writes of Flax's layers."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap.sources.onnx.model import OnnxModel
from fxmap.sources.onnx.spellings.idioms import gates, kept_variances

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402 - after importorskip

RNG = np.random.default_rng(0)


def normed(x: str, second: str = "axes_1", squared: str = "") -> list[Any]:
    """Make Flax's layer norm, whose variance is a mean of squares less the square of a mean, and at least zero."""
    rows = [
        ("ReduceMean", [x, "axes_0"], "mean_0"),
        ("Sub", [x, "mean_0"], "centered_0"),
        ("Mul", [x, squared or x], "squared_0"),
        ("ReduceMean", ["squared_0", second], "second_0"),
        ("Mul", ["mean_0", "mean_0"], "square_0"),
        ("Sub", ["second_0", "square_0"], "variance_0"),
        ("Max", ["variance_0", "const_0"], "kept_0"),
        ("Add", ["kept_0", "const_1"], "eps_0"),
        ("Sqrt", ["eps_0"], "root_0"),
        ("Div", ["centered_0", "root_0"], "normal_0"),
        ("Mul", ["normal_0", "const_2"], "scaled_0"),
        ("Add", ["scaled_0", "const_3"], "norm_0"),
    ]
    return [helper.make_node(kind, inputs, [output]) for kind, inputs, output in rows]


def attention() -> Any:
    """Make a file of a norm and attention of one head, all of whose names its exporter made up."""
    rows: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("MatMul", ["norm_0", "const_4"], "q_0", {}),
        ("MatMul", ["norm_0", "const_5"], "k_0", {}),
        ("Transpose", ["k_0"], "kt_0", {"perm": [0, 2, 1]}),
        ("MatMul", ["q_0", "kt_0"], "logits_0", {}),
        ("Mul", ["logits_0", "dpa_scale_0"], "scaled_logits_0", {}),
        ("Softmax", ["scaled_logits_0"], "weights_0", {"axis": 2}),
        ("MatMul", ["weights_0", "norm_0"], "out_0", {}),
    ]
    nodes = normed("in_0") + [helper.make_node(kind, inputs, [output], **options) for kind, inputs, output, options in rows]
    held = {
        "const_0": np.array(0.0), "const_1": np.array(1e-6), "const_2": RNG.uniform(0.5, 1.5, 4),
        "const_3": RNG.standard_normal(4), "const_4": RNG.standard_normal((4, 4)), "const_5": RNG.standard_normal((4, 4)),
        "dpa_scale_0": np.array(0.5),
    }  # fmt: skip
    made = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in held.items()]
    made += [numpy_helper.from_array(np.array([2]), name) for name in ("axes_0", "axes_1")]
    info = [helper.make_tensor_value_info(name, 1, [2, 5, 4]) for name in ("in_0", "out_0")]
    graph = helper.make_graph(nodes, "jax_model", info[:1], info[1:], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.q, self.k = nn.LayerNorm(4, eps=1e-6), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return F.scaled_dot_product_attention(self.q(x), self.k(x), x)


def test_a_norm_of_flax_and_a_scale_whose_name_was_made_up_are_proven() -> None:
    mapping = fxmap.load(dst := Attention(), attention())
    assert mapping.ok, mapping.proof
    assert mapping.renames.get("norm.weight") == "const_2"
    assert not mapping.missing
    assert dst.norm.bias.any()


def test_a_number_whose_name_was_made_up_is_no_weight() -> None:
    assert "dpa_scale_0" not in OnnxModel(attention()).state_dict()
    assert OnnxModel(attention())(torch.ones(2, 5, 4)).shape == (2, 5, 4)


@pytest.mark.parametrize(
    ("change", "axes", "zero"),
    [({}, [2], 1.0), ({}, [1], 0.0), ({"squared": "other"}, [2], 0.0)],
    ids=["at least one", "means over other axes", "no square"],
)
def test_a_maximum_that_may_choose_zero_is_kept(change: dict[str, str], axes: list[int], zero: float) -> None:
    constants = {"axes_0": torch.tensor([2]), "axes_1": torch.tensor(axes), "const_0": torch.tensor(zero)}
    assert kept_variances(normed("x"), constants | {"axes_1": torch.tensor([2]), "const_0": torch.tensor(0.0)})
    assert kept_variances(normed("x", **change), constants) == {}


@pytest.mark.parametrize("flipped", [False, True])
def test_a_value_times_its_sigmoid_is_a_silu_and_times_anothers_is_none(flipped: bool) -> None:
    sigmoid = helper.make_node("Sigmoid", ["x"], ["s"])
    product, other = (helper.make_node("Mul", [x, "s"][:: -1 if flipped else 1], ["y"]) for x in ("x", "z"))
    assert gates([sigmoid, product]) == {"y": "x"}
    assert gates([sigmoid, other]) == {}


class Gated(nn.Module):
    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.by_hand, self.layers = by_hand, nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            y = layer(x)
            x = x + (y * y.sigmoid() if self.by_hand else F.silu(y))
        return x


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_silu_is_aligned_however_the_other_model_spells_it(by_hand: bool) -> None:
    nodes, held = [], []
    for number, x in enumerate(["x", "y0", "y1"]):
        held += [numpy_helper.from_array(RNG.standard_normal((4, 4)).astype(np.float32), f"w.{number}")]
        held += [numpy_helper.from_array(RNG.standard_normal(4).astype(np.float32), f"b.{number}")]
        nodes += [
            helper.make_node("Gemm", [x, f"w.{number}", f"b.{number}"], [f"h{number}"], transB=1),
            helper.make_node("Sigmoid", [f"h{number}"], [f"s{number}"]),
            helper.make_node("Mul", [f"h{number}", f"s{number}"], [f"m{number}"]),
            helper.make_node("Add", [x, f"m{number}"], [f"y{number}"]),
        ]
    info = [helper.make_tensor_value_info(name, 1, [2, 4]) for name in ("x", "y2")]
    graph = helper.make_graph(nodes, "net", info[:1], info[1:], held)
    mapping = fxmap.auto_map(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), Gated(by_hand))
    assert mapping.ok, mapping.proof
    assert mapping.renames["layers.1.weight"] == "w.1"


def test_numbers_that_an_exporter_named_after_operations_are_no_weights() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "clone"], ["a"]),
        helper.make_node("Add", ["a", "clone_1"], ["b"]),
        helper.make_node("Clip", ["b", "val_0", "val_1"], ["c"]),
        helper.make_node("Mul", ["c", "clone_2"], ["y"]),
    ]
    held = {"clone": RNG.standard_normal((4, 4)), "clone_1": 3.0, "val_0": 0.0, "val_1": 6.0, "clone_2": 1 / 6}
    made = [numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in held.items()]
    info = [helper.make_tensor_value_info(name, 1, [2, 4]) for name in "xy"]
    proto = helper.make_model(helper.make_graph(nodes, "net", info[:1], info[1:], made))
    assert list(OnnxModel(proto).state_dict()) == ["clone"]
    dst = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Hardsigmoid())
    assert fxmap.auto_map(proto, dst).ok
