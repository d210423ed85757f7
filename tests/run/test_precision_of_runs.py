"""What counts as single precision inside a run in double precision."""

import torch
from torch import nn

import fxmap
from fxmap.run.precision import SinglePrecision


class Divided(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.a, self.b, self.eps = nn.Linear(8, 8), nn.Linear(8, 4), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        length = h.norm(dim=-1, keepdim=True)
        out: torch.Tensor = self.b(h / (length + self.eps) if self.eps else h / length)
        return out


def test_a_model_in_single_precision_is_not_one_that_rounds_in_a_double_run() -> None:
    mapping = fxmap.auto_map(Divided(0.0), Divided(1e-10), example_inputs=torch.randn(2, 8))
    assert not mapping.ok


def test_a_copy_of_a_tensor_in_single_precision_rounds_nothing() -> None:
    table = torch.randn(4)
    with SinglePrecision() as seen:
        table.clone().copy_(table)
        _ = table.data
    assert not seen.found
    with SinglePrecision() as seen:
        _ = table * 0.3
    assert seen.found
