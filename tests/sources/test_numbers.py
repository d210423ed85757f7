"""Numbers of the code in ONNX files are numbers of the graph, as in torch's own."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.sources.onnx.model import OnnxModel
from fxmap.testing.planted import randomised

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper, reference  # noqa: E402 - after importorskip


def proto(kind: str, shape: tuple[int, ...], other: tuple[int, ...], place: int, *, as_node: bool) -> Any:
    number = numpy_helper.from_array(np.full(shape, 0.3, np.float32), "number")
    inputs = ["x", "number"] if place else ["number", "x"]
    nodes = [helper.make_node("Constant", [], ["number"], value=number)] if as_node else []
    nodes.append(helper.make_node(kind, inputs, ["y"]))
    info = [helper.make_tensor_value_info(name, 1, list(other) if name == "x" else None) for name in "xy"]
    graph = helper.make_graph(nodes, "net", info[:1], info[1:], [] if as_node else [number])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(("shape", "other"), [((), (2, 3)), ((1,), (3,)), ((1, 1, 1), (2, 3)), ((1,), ())])
@pytest.mark.parametrize("as_node", [False, True])
def test_an_operator_with_a_number_computes_what_the_reference_does(
    kind: str, place: int, shape: tuple[int, ...], other: tuple[int, ...], as_node: bool
) -> None:
    made = proto(kind, shape, other, place, as_node=as_node)
    x = np.random.default_rng(0).uniform(0.5, 2.0, other).astype(np.float32)
    (expected,) = reference.ReferenceEvaluator(made).run(None, {"x": x})
    found = OnnxModel(made)(torch.from_numpy(np.asarray(x)))
    assert tuple(found.shape) == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


class Smooth(nn.Module):
    """A layer before an activation that is written out in numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        x = 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0))))
        made: Tensor = self.after(x)
        return made


@pytest.mark.filterwarnings("ignore")
def test_an_activation_that_is_written_out_in_numbers_is_the_same_operations(tmp_path: Any) -> None:
    src, dst = randomised(Smooth(), 1), randomised(Smooth(), 2)
    torch.onnx.export(src, (torch.ones(2, 4),), str(tmp_path / "a.onnx"), dynamo=False)
    mapping = fxmap.load(dst, tmp_path / "a.onnx")
    assert mapping.ok
    assert {str(mapping.status(key)) for key in dst.state_dict()} == {str(fxmap.Status.PROVEN)}
