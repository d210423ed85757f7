"""Opened: what lies behind a gate that no value opened is not called inert."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.prove.audits.opened import Opened

ROWS = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
STEPS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Three layers and a bias, of which a function makes something."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))
        self.table = nn.Embedding(50, 8)
        self.register_buffer("bias", torch.tensor([9.0, -9.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def by_hash(m: Any, ids: Tensor) -> Tensor:
    h = m.table(ids)
    gate = ((ids * 31).sum(-1) % 4999 == 7)[:, None, None]
    return m.c(torch.where(gate, m.b(h), m.a(h)))


def by_router(m: Any, x: Tensor) -> Tensor:
    place = (x[:, :2] * 1e-3 + m.bias).argmax(-1)
    return m.c(torch.where((place == 0)[:, None], m.a(x), m.b(x))) + m.table.weight[0]


def by_threshold(m: Any, x: Tensor) -> Tensor:
    return m.c(m.a(x) + torch.relu(m.b(x) - 1e9)) + m.table.weight[0]


def by_product(m: Any, x: Tensor) -> Tensor:
    return m.c(m.a(x) + (x.mean(-1, keepdim=True) > 1e7).to(x.dtype) * m.b(x)) + m.table.weight[0]


def attention(m: Any, x: Tensor) -> Tensor:
    mask = torch.ones(x.shape[1], x.shape[1]).triu(1) > 0
    scores = (m.a(x) @ m.b(x).transpose(-1, -2)).masked_fill(mask, -1e9)
    return scores.softmax(-1) @ m.c(x) + m.table.weight[0]


GATES: list[tuple[Callable[[Any, Tensor], Tensor], Tensor]] = [
    (by_hash, torch.arange(14).reshape(2, 7) * 3 % 50),
    (by_router, ROWS),
    (by_threshold, ROWS),
    (by_product, ROWS),
]


@pytest.mark.parametrize(("function", "example"), GATES, ids=[one[0].__name__ for one in GATES])
def test_a_layer_behind_a_gate_that_never_opened_is_not_called_inert(
    function: Callable[[Any, Tensor], Tensor], example: Tensor
) -> None:
    mapping = fxmap.auto_map(Net(function), Net(function), example_inputs=example)
    assert mapping.proof is not None
    assert mapping.proof.ok, mapping.proof.reason
    assert str(mapping.status("b.weight")) == "proven"


def test_the_bias_of_keys_is_inert_whatever_is_opened() -> None:
    mapping = fxmap.auto_map(Net(attention), Net(attention), example_inputs=STEPS)
    assert str(mapping.status("b.bias")) == "inert"


def test_what_returned_several_values_is_not_opened() -> None:
    with Opened() as seen:
        torch.relu(torch.tensor([-1.0, 1.0])).argmax()
    assert seen.flat == [1]
