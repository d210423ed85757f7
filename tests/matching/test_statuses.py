"""What a key is called before anything is proven: left to the destination are integers alone, and no complex numbers."""

import torch
from torch import Tensor, nn

import fxmap
from fxmap import Status


class Filtered(nn.Module):
    """A layer with a complex filter behind it, which one of two models reads conjugated."""

    def __init__(self, conjugated: bool) -> None:
        super().__init__()
        self.a, self.w = nn.Linear(8, 8), nn.Parameter(torch.ones(5, dtype=torch.cfloat))
        self.conjugated = conjugated

    def forward(self, x: Tensor) -> Tensor:
        w = self.w.conj() if self.conjugated else self.w
        return torch.fft.irfft(torch.fft.rfft(self.a(x)) * w, n=8)


def test_a_complex_weight_without_a_source_is_missing_and_not_left_to_the_destination() -> None:
    """With filters of ones the layer before could hold the source's filter, which another filter would give away."""
    mapping = fxmap.auto_map(Filtered(False), Filtered(True), example_inputs=torch.randn(2, 8))
    assert not mapping.proof.ok
    assert mapping.proof.statuses["w"] in (Status.MISSING, Status.MATCHED)
