"""Values of many samples at once are those of the samples one by one, whichever way an operation is run."""

import pytest
import torch
from torch import Tensor, nn

from fxmap.capture.recorded import capture_run
from fxmap.matching.solve.known.source import run
from fxmap.matching.solve.runs.stacked import Samples, Value
from fxmap.model.inputs import as_inputs


class Operations(nn.Module):
    """Operations on elements, with weights of fewer axes, with axes of length one, and with numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v, self.s = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(3, 1)), nn.Parameter(torch.randn(()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = torch.where(x > 0, x * self.w, self.v - x).clamp(-1, 2) + y[:, None] * self.s
        z = z.masked_fill(z > 1, 0.5) / (2 + self.w.tanh()) + torch.maximum(z, self.w)
        return torch.addcmul(z, x, self.w.expand_as(x)) ** 2 + x.sum().reshape(1)


@pytest.mark.parametrize("count", [1, 4])
def test_operations_on_elements_give_each_sample_its_own_values(count: int) -> None:
    x, y = torch.randn(count, 3, 5).double(), torch.randn(count, 3).double()
    captured = capture_run(Operations().double(), as_inputs((x[0], y[0])))
    stacked = run(captured, captured.tensors, [x, y])
    for index in range(count):
        alone = run(captured, captured.tensors, [x[index : index + 1], y[index : index + 1]])
        for node, value in stacked.items():
            if value.stacked and isinstance(value.data, Tensor):
                assert torch.allclose(value.data[index], alone[node].data[0], rtol=1e-12), node


def test_samples_are_cut_and_repeated_when_they_are_asked_for() -> None:
    captured = capture_run(nn.Tanh(), as_inputs(torch.randn(2)))
    node = next(iter(captured.graph.nodes))
    samples = Samples({node: Value(torch.arange(6.0).reshape(3, 2), stacked=True)}, 2, times=2)
    assert samples[node].data[:, 0].tolist() == [0, 2, 0, 2]
    assert node in samples
    assert list(samples) == [node]
    assert len(samples) == 1
