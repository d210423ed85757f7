"""Layers without a counterpart are exchanged with each other: what that changes tells which of them are tied."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import fxmap
from fxmap.mapping.proof import Status
from tests.prove.partial.test_witnesses import Net, linear, mapped


def test_layers_that_may_be_exchanged_without_a_counterpart_are_tied() -> None:
    src, dst = ({name: linear() for name in "acdeb"} for _ in range(2))
    one = Net(lambda m, x: m.b((torch.complex(m.a(x), m.c(x)) * torch.complex(m.d(x), m.e(x))).real), **src)
    other = Net(lambda m, x: m.b(m.a(x) * m.d(x) - m.c(x) * m.e(x)), **dst)
    mapping = mapped(one, other, torch.randn(5, 6))
    assert mapping.proof.ok
    assert mapping.status("a.weight") is Status.TIED


def test_layers_behind_a_gate_that_is_far_are_not_tied() -> None:
    """Exchanging them changes nothing on inputs of unit scale, and neither does changing one of them."""
    src, dst = ({name: linear() for name in "acdb"} for _ in range(2))
    one = Net(lambda m, x: m.b(m.a(x) + m.c(x) * torch.sigmoid(m.d(x) - 50)), **src)
    other = Net(lambda m, x: m.b(m.a(x) + m.c(x) / (1 + torch.exp(50 - m.d(x)))), **dst)
    proof = fxmap.verify(one, other, {key: key for key in one.state_dict()}, example_inputs=torch.randn(5, 6))
    assert Status.TIED not in proof.statuses.values()


class Scaled(nn.Module):
    """A layer with two scales, one right behind the other or with a function between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(6, 8), nn.Linear(8, 3), between
        self.one, self.other = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(torch.tanh(self.between(self.a(x) * self.one) * self.other))
        return y


def test_two_scales_are_tied_where_nothing_stands_between_them() -> None:
    for between, status in ((lambda h: h, Status.TIED), (torch.sin, Status.PROVEN)):
        mapping = mapped(Scaled(between), Scaled(between), torch.randn(5, 6))
        assert mapping.proof.ok
        assert {mapping.status("one"), mapping.status("other")} == {status}
