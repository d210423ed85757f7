"""Numbers that code makes of extents are in double precision for the run alone: torch's default dtype stays as it is."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from fxmap.model.extents import DoubleExtents, is_of_extents
from fxmap.sources.scripted import ScriptedModel


class Rooted(nn.Module):
    """A division by the root of an extent, which a trace makes by operations on integers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.a(x) * (torch.tensor(x.shape[-1]) ** -0.5)
        return out


def test_a_trace_makes_its_numbers_in_double_precision_and_leaves_the_default_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    set_by = list[torch.dtype]()
    monkeypatch.setattr(torch, "set_default_dtype", set_by.append)
    model, x = Rooted().eval(), torch.randn(2, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = ScriptedModel(torch.jit.trace(model, x)).double()
    found = scripted(x.double())
    exact = (x.double() @ model.a.weight.double().T + model.a.bias.double()) / 7**0.5
    assert found.dtype is torch.float64
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
    assert not set_by


@pytest.mark.parametrize("value", [torch.tensor(True), torch.tensor(3.0)])
def test_what_is_made_of_switches_or_of_floats_stays_as_it_is(value: Tensor) -> None:
    with DoubleExtents():
        assert torch.where(value > 0, 1.5, 2.5).dtype is torch.float32
    assert not is_of_extents(torch.ones(()), (value,))
