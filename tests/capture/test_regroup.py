"""Rewrites of recorded graphs: the value stays the same, and what is joined or added in another order is one graph."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxmap.graph.opgraph import CONSTANT, TENSOR
from fxmap.matching.sides import side
from fxmap.model.inputs import as_inputs
from fxmap.run.interpreter import ValueInterpreter

X = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))


class Function(nn.Module):
    def __init__(self, function: Callable[["Function", Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 3)), nn.Parameter(torch.randn(1, 5, 3))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 4:  # keeps symbolic tracing out
            raise ValueError("of another length")
        return self.function(self, x)

    def joined(self, x: Tensor) -> Tensor:
        return torch.cat((self.token.expand(len(x), -1, -1), x), 1)


def _mask() -> Tensor:
    return torch.arange(5.0)[None, :, None].expand(1, 5, 3)


def _twice(model: Function, x: Tensor) -> Tensor:
    return torch.cat((torch.cat((model.token.expand(len(x), -1, -1), x), 1), x), 1).tanh()


def _at_once(model: Function, x: Tensor) -> Tensor:
    return torch.cat((model.token.expand(len(x), -1, -1), x, x), 1).tanh()


EQUATIONS = [
    (
        lambda m, x: (m.joined(x) + m.position).tanh(),
        lambda m, x: torch.cat(((m.token + m.position[:, :1]).expand(2, -1, -1), x + m.position[:, 1:]), 1).tanh(),
    ),
    (lambda m, x: m.joined(x)[:, 1:].tanh(), lambda m, x: x.tanh()),
    (_twice, _at_once),
    (
        lambda m, x: (m.joined(x).tanh() + (m.position + _mask())).exp(),
        lambda m, x: ((m.joined(x).tanh() + m.position) + _mask()).exp(),
    ),
    (
        lambda m, x: torch.cat((torch.tensor([]), x.transpose(1, 2)), 1).flatten(1).tanh(),
        lambda m, x: x.mT.flatten(1).tanh(),
    ),
    (
        lambda m, x: torch.addcmul(m.token, m.position[:, :1], x).tanh(),
        lambda m, x: (x * m.position[:, :1] + m.token).tanh(),
    ),
    (lambda m, x: F.pad(x, (0, 0)).tanh(), lambda m, x: x.tanh()),
    (lambda m, x: F.interpolate(x[:, None], (4, 3), mode="bicubic")[:, 0].tanh(), lambda m, x: x.tanh()),
]


@pytest.mark.parametrize(("one", "other"), EQUATIONS)
def test_both_sides_are_equal_and_one_graph(one: Callable[..., Tensor], other: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    model, twin = Function(one), Function(other)
    twin.load_state_dict(model.state_dict())
    assert torch.allclose(model(X), twin(X), atol=1e-6)
    kinds = []
    for module in (model, twin):
        captured = side(module, as_inputs(X)).main
        value = ValueInterpreter(captured, captured.tensors).run(X)
        assert torch.allclose(value, module(X), atol=1e-6)
        kinds.append(sorted(op.kind for op in captured.ops.ops() if op.kind not in (TENSOR, CONSTANT)))
    assert kinds[0] == kinds[1]
