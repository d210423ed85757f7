"""The uses of a value are traced through whatever moves its elements."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxmap.capture.recorded import capture_run
from fxmap.matching.solve.known.source import run
from fxmap.matching.solve.runs.stacked import StackedInterpreter
from fxmap.matching.solve.runs.uses import Uses
from fxmap.model.inputs import Inputs


class Net(nn.Module):
    """A convolution, a pixel shuffle of its activated values, and another convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(F.pixel_shuffle(F.relu(self.a(x)), 2))
        return result


def test_elements_are_found_again_at_the_operand_that_reads_them() -> None:
    x = torch.randn(1, 1, 2, 3)
    captured = capture_run(Net().eval(), Inputs((x,), {}, roomy=True, size="(1, 1, 2, 3)"))
    tensors = {path: tensor.detach().double() for path, tensor in captured.tensors.items()}
    values = run(captured, tensors, [x[None].double()])
    node = next(node for node in captured.graph.nodes if "convolution" in str(node.target))
    relu, convolution = Uses(StackedInterpreter(captured), values).of(node)[:2]
    assert (relu.kind, relu.direct) == ("relu", True)
    assert (convolution.kind, convolution.direct) == ("convolution", False)
    assert torch.equal(convolution.index, F.pixel_shuffle(torch.arange(24).view(1, 4, 2, 3), 2))
