"""Layers without a counterpart are exchanged with each other: what that changes tells which of them are tied."""

import torch

import fxmap
from fxmap.mapping.proof import Status
from tests.prove.test_witnesses import Net, linear, mapped


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
