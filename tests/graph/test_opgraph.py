"""Operation graphs keep their invariants through every stage, a broken one is named, and a graph prints readably."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from fxmap.capture.captured import Captured
from fxmap.capture.recorded import capture_run
from fxmap.capture.symbolic import capture_symbolic
from fxmap.errors import CaptureError, InternalError
from fxmap.graph.build import build
from fxmap.graph.opgraph import Op, OpGraph
from fxmap.model.inputs import as_inputs
from fxmap.model.replica import replicate
from fxmap.normalize.fold import Fold
from fxmap.normalize.network import Network
from tests.matching.search.test_rotary import Attention
from tests.normalize.test_branches import Branches

IMAGE = torch.randn(1, 3, 64, 64)
EVERYTHING = Fold(sums=True, scales=True, norms_before=True, weight_norms=True)


class Composed(nn.Module):
    """A weight that is stored as w - 1, a bias of which a part is zero, and a weight kept as direction and size."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.some = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(2))
        self.weight, self.last = nn.Parameter(torch.randn(4, 4)), weight_norm(nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat((self.some, torch.zeros(2)))
        return self.last(F.linear(F.layer_norm(x, (4,), self.scale + 1), self.weight, bias))


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "resnet18": (torchvision.models.resnet18, IMAGE),
    "googlenet": (lambda: torchvision.models.googlenet(init_weights=False, aux_logits=False), IMAGE),
    "squeezenet": (torchvision.models.squeezenet1_1, IMAGE),
    "shufflenet": (torchvision.models.shufflenet_v2_x0_5, IMAGE),
    "swin": (lambda: torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4]), IMAGE),
    "vit": (lambda: torchvision.models.VisionTransformer(64, 16, 2, 2, 16, 32), IMAGE),
    "segmentation": (lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None), IMAGE),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.randn(2, 5, 16)),
    "rotary": (lambda: Attention("half", joined=True), torch.randn(2, 6, 16)),
    "branches": (lambda: Branches(False), torch.randn(2, 3, 9, 9)),
    "composed": (Composed, torch.randn(2, 4)),
    "lstm": (lambda: nn.LSTM(4, 6, 2, batch_first=True), torch.randn(2, 5, 4)),
}


def _captures(name: str) -> list[Captured]:
    make, x = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    found = [capture_run(replicate(model), as_inputs(x))]
    try:
        return [capture_symbolic(replicate(model)), *found]
    except CaptureError:
        return found


@pytest.mark.parametrize("name", MODELS)
def test_invariants_hold_after_build_and_after_normalisation(name: str) -> None:
    for captured in _captures(name):
        build(captured.graph, captured.tensors).check(captured.graph)
        for fold in (Fold(), EVERYTHING):
            Network.of(captured, fold).ops.check(captured.graph)


def _layers() -> OpGraph:
    return Network.of(capture_symbolic(replicate(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU()).eval()))).ops


def _cycle(ops: OpGraph) -> None:
    ops.network.add_edge("relu", "conv2d", argument="input")


def _without_argument(ops: OpGraph) -> None:
    ops.network.add_edge("conv2d", "relu")


def _without_shape(ops: OpGraph) -> None:
    ops.add(replace(ops.op("%0.weight"), shape=None))


def _tensor_that_reads(ops: OpGraph) -> None:
    ops.network.add_edge("input_1", "%0.weight", argument="input")


def _second_output(ops: OpGraph) -> None:
    ops.add(Op("more", "output", output="output"))


def _rows_of_another(ops: OpGraph) -> None:
    ops.add(replace(ops.op("conv2d"), rows=(0, 4)))


def _lost_value(ops: OpGraph) -> None:
    ops.add(replace(ops.op("relu"), output="gone"))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (_cycle, "cycle: conv2d -> relu|cycle: relu -> conv2d"),
        (_without_argument, "relu: the edge from conv2d names no argument"),
        (_without_shape, "%0.weight: a tensor without a key or a shape"),
        (_tensor_that_reads, "%0.weight: a tensor that reads"),
        (_second_output, "2 outputs"),
        (_rows_of_another, "conv2d: its rows are not different ones of the 4 of %0.weight"),
        (_lost_value, "relu: its value is that of 'gone', which is no node"),
    ],
)
def test_a_broken_invariant_names_the_node(broken: Callable[[OpGraph], None], message: str) -> None:
    captured = capture_symbolic(replicate(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()))
    ops = Network.of(captured).ops
    ops.check(captured.graph)
    broken(ops)
    with pytest.raises(InternalError, match=message):
        ops.check(captured.graph)


def test_a_graph_prints_one_operation_a_line() -> None:
    lines = str(_layers()).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("conv2d: convolution [0](input=input_1, ")
    assert "weight=0.weight (o=4 i=3 kh=3 kw=3), bias=0.bias (4), stride=2)" in lines[1]
    assert lines[2] == "relu: relu [1](input=conv2d)"
