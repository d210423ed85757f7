"""Operands that code puts together from stored tensors: slices, joins, sums, shifts, lookups, and back."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap.expressions.arithmetic import Full, Shifted
from fxmap.expressions.base import Source
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.testing.planted import randomised

WIDTH, LENGTH = 8, 5
X = torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))


class Tokens(nn.Module):
    """A class token and positions, in one of the orders that code uses; `runs` keeps symbolic tracing out."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.embed, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        if style == "lookup":
            self.positions = nn.Embedding(LENGTH + 1, WIDTH)
        else:
            self.position = nn.Parameter(torch.zeros(1, LENGTH + (style != "none for the token"), WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != LENGTH:
            raise ValueError("of another length")
        token: Tensor = self.token
        x = self.embed(x)
        if self.style == "joined, then added":
            x = torch.cat((token.expand(len(x), -1, -1), x), 1) + self.position
        elif self.style == "added, then joined":
            token = token + self.position[:, :1]
            x = torch.cat((token.expand(len(x), -1, -1), x + self.position[:, 1:]), 1)
        elif self.style == "lookup":
            x = torch.cat((token.expand(len(x), -1, -1), x), 1) + self.positions(torch.arange(LENGTH + 1))
        else:
            x = torch.cat((token.expand(len(x), -1, -1), x + self.position), 1)
        return self.head(torch.tanh(x))


def _mapped(src: nn.Module, dst: nn.Module, x: Tensor = X) -> KeyMapping:
    src, dst = randomised(src, 1).eval(), randomised(dst, 2).eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=x)
    assert not mapping.missing
    assert mapping.proof.ok, str(mapping)
    mapping.load_into(dst, src.state_dict())
    y = torch.randn(x.shape)
    with torch.no_grad():
        assert torch.allclose(src(y), dst(y), atol=1e-5)
    assert KeyMapping.from_json(mapping.to_json()) == mapping
    return mapping


@pytest.mark.parametrize("ours", ["joined, then added", "added, then joined", "lookup"])
@pytest.mark.parametrize("theirs", ["joined, then added", "added, then joined", "lookup"])
def test_a_token_may_get_its_position_before_or_after_it_is_joined(ours: str, theirs: str) -> None:
    mapping = _mapped(Tokens(ours), Tokens(theirs))
    assert mapping["token"] == Source("token")


def test_only_the_sum_of_token_and_position_matters() -> None:
    less = _mapped(Tokens("joined, then added"), Tokens("none for the token"))
    assert set(less["token"].sources()) == {"token", "position"}
    more = _mapped(Tokens("none for the token"), Tokens("joined, then added"))
    assert more["token"] == Source("token")
    assert set(more["position"].sources()) == {"token", "position"} or "position" in set(more["position"].sources())


class Biased(nn.Module):
    """A joined projection: a bias of parts and zeros, or one whose middle is set to zero; or three projections."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        if style == "separate":
            self.q, self.k, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        else:
            self.weight = nn.Parameter(torch.zeros(3 * WIDTH, WIDTH))
            self.bias = nn.Parameter(torch.zeros(3 * WIDTH)) if style == "written" else None
        if style == "parts":
            self.q_bias, self.v_bias = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.zeros(WIDTH))
        self.out = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != LENGTH:
            raise ValueError("of another length")
        if self.style == "separate":
            q, k, v = self.q(x), self.k(x), self.v(x)
        elif self.bias is not None:
            # A slice of another stride, too: such a model's writes are recorded as they are.
            bias, y = self.bias.clone(), torch.as_strided(x, (len(x), LENGTH, WIDTH), x.stride())
            bias[WIDTH : 2 * WIDTH].zero_()
            q, k, v = F.linear(y, self.weight, bias).chunk(3, -1)
        else:
            bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
            q, k, v = F.linear(x, self.weight, bias).chunk(3, -1)
        return self.out((q @ k.transpose(1, 2)).softmax(-1) @ v)


def test_a_bias_of_parts_and_zeros() -> None:
    split = _mapped(Biased("parts"), Biased("separate"))
    assert split["q.bias"] == Source("q_bias")
    assert split["v.bias"] == Source("v_bias")
    joined = _mapped(Biased("separate"), Biased("parts"))
    assert joined["q_bias"] == Source("q.bias")
    assert joined["v_bias"] == Source("v.bias")


def test_a_bias_of_which_a_part_is_set_to_zero() -> None:
    split = _mapped(Biased("written"), Biased("separate"))
    assert str(split["q.bias"]) == f"bias[0:{WIDTH}]"
    assert str(split["v.bias"]) == f"bias[{2 * WIDTH}:{3 * WIDTH}]"


class Scaled(nn.Module):
    """A norm whose weight is stored as it is, or less one, or as half of it."""

    def __init__(self, shift: float = 0.0, factor: float = 1.0) -> None:
        super().__init__()
        self.shift, self.factor = shift, factor
        self.weight, self.body = nn.Parameter(torch.ones(WIDTH)), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        if self.factor != 1.0:
            weight = weight * self.factor
        if self.shift:
            weight = weight + self.shift
        return torch.tanh(self.body(x) * weight)


def test_weights_that_are_shifted_or_scaled_before_use() -> None:
    plain = _mapped(Scaled(), Scaled(1.0))
    assert plain["weight"] == Shifted(Source("weight"), -1.0)
    assert _mapped(Scaled(1.0), Scaled())["weight"] == Shifted(Source("weight"), 1.0)
    assert _mapped(Scaled(1.0), Scaled(1.0))["weight"] == Source("weight")
    assert _mapped(Scaled(0.0, 0.5), Scaled(1.0, 2.0))["weight"].evaluate({"weight": torch.tensor(4.0)}) == 0.5


class Table(nn.Module):
    """A bias read from a table by constant numbers, filled in step by step or looked up as rows."""

    def __init__(self, by_rows: bool) -> None:
        super().__init__()
        self.by_rows = by_rows
        self.table, self.body = nn.Parameter(torch.zeros(2 * LENGTH - 1, 2)), nn.Linear(WIDTH, LENGTH)

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(LENGTH)
        index = torch.zeros(LENGTH, LENGTH, dtype=torch.long)
        index[:, :] = place[:, None] - place[None, :] + LENGTH - 1
        bias = F.embedding(index, self.table).permute(2, 0, 1)
        if not self.by_rows:
            bias = self.table[index.view(-1)].view(LENGTH, LENGTH, -1).permute(2, 0, 1)
        return torch.tanh(self.body(x)[:, None] + bias)


@pytest.mark.parametrize("by_rows", [True, False])
def test_tables_that_are_looked_up_correspond_as_a_whole(by_rows: bool) -> None:
    assert _mapped(Table(by_rows), Table(not by_rows))["table"] == Source("table")


def test_a_bias_that_the_source_lacks_is_zero_in_its_part_alone() -> None:
    src, dst = Biased("separate"), Biased("parts")
    src.q = nn.Linear(WIDTH, WIDTH, bias=False)
    mapping = _mapped(src, dst)
    assert isinstance(mapping["q_bias"], Full)
    assert mapping["v_bias"] == Source("v.bias")


def _covering(linear: bool) -> nn.Module:
    body = nn.Conv2d(3, 4, 3, padding=1)
    if linear:
        return nn.Sequential(body, nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    return nn.Sequential(body, nn.Conv2d(4, 5, 6), nn.Flatten())


@pytest.mark.parametrize("linear", [True, False])
def test_a_convolution_as_large_as_its_map_is_a_linear_layer(linear: bool) -> None:
    src, dst = randomised(_covering(linear), 1).eval(), randomised(_covering(not linear), 2).eval()
    x = torch.randn(2, 3, 6, 6)
    mapping = fxmap.auto_map(src, dst, example_inputs=x)
    assert not mapping.missing
    mapping.load_into(dst, src.state_dict())
    with torch.no_grad():
        assert torch.allclose(src(x), dst(x), atol=1e-5)


SPELLINGS: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
    (F.hardswish, lambda x: x * F.relu6(x + 3) / 6),
    (F.silu, lambda x: x * torch.sigmoid(x)),
    (F.gelu, lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
]


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_values_see_through_what_is_spelled_out(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.act = act
            self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + self.act(layer(x))
            return x

    src, dst = randomised(Net(one), 1).eval(), randomised(Net(other), 2).eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert mapping.renames == {key: key for key in dst.state_dict()}


class Terms(nn.Module):
    """A layer whose bias is a sum of many stored tensors, one added to the other."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=False)
        self.name = name
        self.register_module(name, nn.ParameterList([nn.Parameter(torch.randn(3)) for _ in range(count)]))

    def forward(self, x: Tensor) -> Tensor:
        terms: Any = self.get_submodule(self.name)
        total: Tensor = terms[0]
        for place in range(1, len(terms)):
            total = total + terms[place]
        return F.linear(x, self.layer.weight, total)


def test_a_sum_of_more_terms_than_python_recurses_is_one_operand() -> None:
    mapping = fxmap.auto_map(Terms("a", 450), Terms("b", 450), example_inputs=torch.randn(2, 3), verify=False)
    assert mapping.renames == {"layer.weight": "layer.weight", **{f"b.{n}": f"a.{n}" for n in range(450)}}
