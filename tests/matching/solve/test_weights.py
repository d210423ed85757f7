"""Weights are solved for, and recognised, between spellings that no rule knows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap.testing.planted import randomised

State = dict[str, Tensor]


class Adapted(nn.Module):
    """A linear layer with a low-rank update beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.a, self.b = nn.Linear(6, 8), nn.Parameter(torch.ones(2, 6)), nn.Parameter(torch.ones(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2 * (x @ self.a.t()) @ self.b.t()


class Unfolded(nn.Module):
    """A convolution as a product with patches."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.shift = nn.Parameter(torch.ones(4, 27)), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, 3)
        return (self.kernel @ patches + self.shift[:, None]).view(len(x), 4, x.shape[2] - 2, x.shape[3] - 2)


class OneHot(nn.Module):
    """A lookup as a product with one-hot rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Linear(7, 4, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(F.one_hot(ids, 7).to(self.table.weight.dtype))


class Standardised(nn.Module):
    """A linear layer whose weight is standardised before it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        weight = (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)
        return F.linear(x, weight, self.layer.bias)


def adapted(state: State) -> State:
    return {"0.weight": state["0.base.weight"] + 2 * state["0.b"] @ state["0.a"], "0.bias": state["0.base.bias"]}


def standardised(state: State) -> State:
    weight = state["0.layer.weight"]
    weight = (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)
    return {"0.weight": weight, "0.bias": state["0.layer.bias"]}


def before_tanh(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.Tanh())


class Normed(nn.Module):
    """A norm before a layer with a bias: the layer's inputs depend on one another, so that it has many equal forms."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.kernel, self.shift = (nn.Parameter(torch.ones(n, 6)) for n in (2, 6, 1))

    def forward(self, x: Tensor) -> Tensor:
        deviation = torch.sqrt((x * x).mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2 + 1e-5)
        return (self.both[0] * (x - x.mean(-1, keepdim=True)) / deviation + self.both[1]) @ self.kernel + self.shift


PAIRS: dict[str, tuple[nn.Module, nn.Module, Tensor, Callable[[State], State]]] = {
    "a low-rank update merged": (Adapted(), nn.Linear(6, 8), torch.randn(3, 6), adapted),
    "a convolution as a product": (
        nn.Conv2d(3, 4, 3),
        Unfolded(),
        torch.randn(2, 3, 6, 5),
        lambda state: {"0.kernel": state["0.weight"].flatten(1), "0.shift": state["0.bias"]},
    ),
    "a lookup as a product": (
        nn.Embedding(7, 4),
        OneHot(),
        torch.tensor([[0, 6, 3]]),
        lambda state: {"0.table.weight": state["0.weight"].t()},
    ),
    "a layer behind a norm by hand": (
        nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6)),
        Normed(),
        torch.randn(3, 6),
        lambda state: {
            "0.both": torch.stack([state["0.0.weight"], state["0.0.bias"]]),
            "0.kernel": state["0.1.weight"].t(),
            "0.shift": state["0.1.bias"][None],
        },
    ),
    "a standardised weight": (Standardised(), nn.Linear(6, 4), torch.randn(3, 6), standardised),
}


@pytest.mark.parametrize("name", PAIRS)
def test_every_key_is_the_one_that_makes_both_functions_equal(name: str) -> None:
    src, dst, x, truth = PAIRS[name]
    src, dst = randomised(before_tanh(src), 0), before_tanh(dst)
    mapping = fxmap.auto_map(src, dst, example_inputs=x)
    made, right = mapping.apply(src.state_dict()), truth(src.state_dict())
    assert made.keys() == right.keys()
    for key, value in right.items():
        torch.testing.assert_close(made[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["a low-rank update merged", "a standardised weight"])
def test_an_effective_weight_is_written_and_read_as_json_and_as_python(name: str) -> None:
    src, dst, x, _ = PAIRS[name]
    src, dst = randomised(before_tanh(src), 0), before_tanh(dst)
    mapping = fxmap.auto_map(src, dst, example_inputs=x)
    state = src.state_dict()
    made = mapping.apply(state)
    again = fxmap.KeyMapping.from_json(mapping.to_json()).apply(state)
    namespace: dict[str, Any] = {}
    exec(mapping.to_python(), namespace)
    printed = namespace["convert"](state)
    for key, value in made.items():
        assert torch.equal(again[key], value)
        assert torch.equal(printed[key], value)


def test_networks_that_compute_something_else_stay_different() -> None:
    src = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    dst = nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 2))
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(3, 6))
    assert not mapping.proof.ok


def test_a_program_of_other_operations_than_those_of_aten_is_refused() -> None:
    from fxmap.expressions.programs import run_program

    with pytest.raises(ValueError, match="aten alone"):
        run_program([torch.ones(1)], '[["prims.sin.default", [{"value": 0}], {}]]')
