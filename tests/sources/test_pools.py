"""Pools of maps that a file pads with zeros before: a pool's own padding where no number is below zero, and only there."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.sources.onnx.model import OnnxModel
from fxmap.sources.onnx.spellings.pools import padded_pools

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper, reference  # noqa: E402 - after importorskip

RNG = np.random.default_rng(0)
PADS = [0, 0, 1, 1, 0, 0, 1, 1]


def net(last: bool, activation: str = "Relu") -> Any:
    """Make a file of a layer, a pad and a pool, with maps turned between them or not."""
    rows: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Conv", ["x", "w"], "a", {}),
        (activation, ["b" if last else "a"], "c", {}),
        ("Pad", ["c", "pads"], "d", {}),
        ("MaxPool", ["e" if last else "d"], "f", {"kernel_shape": [3, 3], "strides": [2, 2]}),
        ("Conv", ["f", "v"], "y", {}),
    ]
    if last:
        rows.insert(1, ("Transpose", ["a"], "b", {"perm": [0, 2, 3, 1]}))
        rows.insert(4, ("Transpose", ["d"], "e", {"perm": [0, 3, 1, 2]}))
    nodes = [helper.make_node(kind, inputs, [output], **options) for kind, inputs, output, options in rows]
    held = {"w": RNG.standard_normal((4, 3, 1, 1)), "v": RNG.standard_normal((2, 4, 1, 1))}
    made = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in held.items()]
    made.append(numpy_helper.from_array(np.array([0, 1, 1, 0, 0, 1, 1, 0] if last else PADS), "pads"))
    info = [helper.make_tensor_value_info(*one) for one in (("x", 1, [2, 3, 8, 8]), ("y", 1, None))]
    graph = helper.make_graph(nodes, "net", info[:1], info[1:], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(nn.functional.max_pool2d(torch.relu(self.one(x)), 3, 2, 1))
        return y


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
def test_a_pool_behind_padding_computes_what_the_reference_does(last: bool, activation: str) -> None:
    proto = net(last, activation)
    x = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32) - 2
    (expected,) = reference.ReferenceEvaluator(proto).run(None, {"x": x})
    np.testing.assert_allclose(OnnxModel(proto)(torch.from_numpy(x)).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("last", [True, False])
def test_a_pool_of_what_is_padded_with_zeros_is_proven_against_a_pool_that_pads(last: bool) -> None:
    assert fxmap.auto_map(net(last), Net()).ok


def test_where_numbers_may_be_below_zero_the_zeros_stay() -> None:
    held = {"pads": torch.tensor(PADS)}
    assert padded_pools(net(False).graph.node, held)
    assert padded_pools(net(False, "Tanh").graph.node, held) == {}


@pytest.mark.parametrize(
    ("mode", "pads", "fill"), [("reflect", PADS, 0), ("constant", [0, 1, *PADS[2:]], 0), ("constant", PADS, -1)]
)
def test_other_padding_stays(mode: str, pads: list[int], fill: float) -> None:
    nodes = list(net(False).graph.node)
    place = next(place for place, node in enumerate(nodes) if node.op_type == "Pad")
    nodes[place] = helper.make_node("Pad", ["c", "pads", "fill"], ["d"], mode=mode)
    assert padded_pools(nodes, {"pads": torch.tensor(pads), "fill": torch.tensor(float(fill))}) == {}
