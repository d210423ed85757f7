"""Tables in single precision: their rounding is forgiven, and nothing else is."""

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.matching.sides import side
from fxmap.model.inputs import as_inputs
from fxmap.run.precision import behind_tables
from fxmap.testing.planted import randomised

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


class Turned(nn.Module):
    """Turns its values by angles from a table; `double` makes the table in double precision first."""

    def __init__(self, double: bool, base: float = 100.0, factor: float = 1.0) -> None:
        super().__init__()
        self.one, self.two, self.factor = nn.Linear(6, 6), nn.Linear(6, 3), factor
        steps = torch.arange(6, dtype=torch.float64 if double else torch.float32) / 6
        self.register_buffer("table", (1.0 / base**steps).cos().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] < 2:  # keeps symbolic tracing out
            raise ValueError("too short")
        return self.two((self.one(x) * self.table).tanh() * self.factor)


def test_the_rounding_of_a_table_is_forgiven_and_reported() -> None:
    src, dst = randomised(Turned(False), 1).eval(), randomised(Turned(True), 2).eval()
    assert not torch.equal(src.get_buffer("table"), dst.get_buffer("table"))
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert mapping.proof.ok, str(mapping)
    assert any("tables that the models make in single precision differ by rounding" in note for note in mapping.proof.notes)


@pytest.mark.parametrize("dst", [Turned(True, base=100.2), Turned(True, factor=1.000001)])
def test_another_table_or_another_number_is_not_forgiven(dst: Turned) -> None:
    mapping = fxmap.auto_map(randomised(Turned(False), 1).eval(), randomised(dst, 2).eval(), example_inputs=X)
    assert not mapping.proof.ok


def test_what_is_exact_in_few_digits_is_no_rounded_table() -> None:
    class Masked(Turned):
        def __init__(self) -> None:
            super().__init__(False)
            self.table = torch.tensor([1.0, 2.0, -0.5, 0.0, 64.0, 3.0])

    for model, found in ((Masked(), False), (Turned(False), True)):
        captured = side(model, as_inputs(X)).main
        assert bool(behind_tables(captured, set())) is found
