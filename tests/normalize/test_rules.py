"""Every rule is an equation: both sides are computed on random numbers; and each rule makes one graph of both."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

import fxmap
from fxmap.capture.symbolic import SYMBOLIC
from fxmap.graph.opgraph import TENSOR
from fxmap.mapping.proof import Status
from fxmap.matching.sides import side
from fxmap.model.inputs import as_inputs
from fxmap.model.replica import replicate
from fxmap.normalize.network import Network


def _kinds(model: nn.Module, x: Tensor | None = None) -> list[str]:
    ops = Network.of(SYMBOLIC.capture(replicate(model))).ops if x is None else side(model, as_inputs(x)).main.ops
    return [op.kind for op in ops.ops() if op.kind != TENSOR]


def _lines(model: nn.Module, x: Tensor | None = None) -> list[Any]:
    """Return kinds, attributes, and which operations each reads, without their names."""
    ops = Network.of(SYMBOLIC.capture(replicate(model))).ops if x is None else side(model, as_inputs(x)).main.ops
    number = {op.name: index for index, op in enumerate(ops.ops())}
    read = [ops.operands(op.name).items() for op in ops.ops()]
    operands = [{argument: [number[name] for name in names] for argument, names in items} for items in read]
    return [(op.kind, op.attributes, own) for op, own in zip(ops.ops(), operands, strict=True)]


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _behind(function: Callable[[Tensor], Tensor]) -> Function:
    """Return a function of what is computed: an input may be of integers, which arithmetic wraps around."""
    return Function(lambda x: function(x.sinh()))


X = torch.randn(2, 4, 5, 5, dtype=torch.float64)
SPELLINGS = [
    (lambda x: F.adaptive_avg_pool2d(x, 1), lambda x: x.mean((2, 3), keepdim=True)),
    (F.relu, lambda x: torch.relu_(x.clone())),
    (lambda x: F.dropout(x, 0.5, training=False), lambda x: x.contiguous()),
    (lambda x: x.transpose(1, 2).flatten(1).tanh(), lambda x: x.permute(0, 2, 1, 3).reshape(2, -1).tanh()),
    (F.relu6, lambda x: F.hardtanh(x, 0.0, 6.0)),
    (lambda x: F.silu(x) * 1.0, F.silu),
    (lambda x: torch.add(x, torch.tanh(x)), lambda x: torch.tanh(x) + x),
    (lambda x: x.mT.tanh(), lambda x: x.transpose(2, 3).tanh()),
    (lambda x: x * x, lambda x: x.pow(2)),
    (lambda x: x**2, torch.square),
    (lambda x: (x + x.tanh()) + x.exp(), lambda x: x.tanh() + (x.exp() + x)),
    (lambda x: torch.cat((x, x), 1).tanh(), lambda x: x.repeat(1, 2, 1, 1).tanh()),
    (lambda x: F.avg_pool2d(x, 2, count_include_pad=False), lambda x: F.avg_pool2d(x, 2)),
    (F.relu, lambda x: x.clamp(min=0)),
    (F.relu, lambda x: torch.clamp_min(x, 0)),
    (F.relu, lambda x: torch.maximum(x, torch.zeros_like(x))),
    (F.relu, lambda x: torch.maximum(torch.tensor(0.0), x)),
    (F.relu, lambda x: F.threshold(x, 0, 0)),
    (F.relu, lambda x: torch.where(x > 0, x, 0.0)),
    (F.relu6, lambda x: x.clamp(0, 6)),
    (F.relu6, lambda x: x.relu().clamp(max=6)),
    (F.relu6, lambda x: x.clamp(max=6).clamp(min=0)),
    (lambda x: torch.maximum(x.sin(), x.cos()), lambda x: torch.where(x.sin() > x.cos(), x.sin(), x.cos())),
    (lambda x: torch.minimum(x.sin(), x.cos()), lambda x: torch.where(x.sin() >= x.cos(), x.cos(), x.sin())),
    (lambda x: torch.linalg.vector_norm(x.tanh(), dim=1), lambda x: (x.tanh() ** 2).sum(1).sqrt()),
    (F.hardtanh, lambda x: x.clamp(-1, 1)),
    (F.hardsigmoid, lambda x: F.relu6(x + 3) / 6),
    (F.hardsigmoid, lambda x: (x + 3).clamp(0, 6) * (1 / 6)),
    (F.hardsigmoid, lambda x: (x / 6 + 0.5).clamp(0, 1)),
    (F.hardsigmoid, lambda x: ((x + 3) / 6).clamp(0, 1)),
    (F.hardswish, lambda x: x * F.relu6(x + 3) / 6),
    (F.hardswish, lambda x: x * (F.relu6(x + 3) / 6)),
    (F.hardswish, lambda x: F.hardsigmoid(x) * x),
    (lambda x: x.masked_fill(x > 0.5, -1e9), lambda x: torch.where(x > 0.5, -1e9, x)),
    (lambda x: x.masked_fill(~(x > 0.5), -1e9), lambda x: torch.where(x > 0.5, x, -1e9)),
    (lambda x: x.masked_fill((x > 0.5) == 0, -1e9), lambda x: x.masked_fill((x > 0.5).logical_not(), -1e9)),
    (lambda x: torch.constant_pad_nd(x, (1, 1)), lambda x: F.pad(x, (1, 1), value=0.0)),
    (lambda x: F.pad(x, (0, 0, 1, 0, 0, 0)), lambda x: F.pad(x, (0, 0, 1, 0))),
    (lambda x: F.softmax(x, 1), lambda x: F.softmax(x, 1, _stacklevel=5)),
    (lambda x: x.std(1), lambda x: x.var(1).sqrt()),
    (lambda x: x.var((2, 3), correction=0), lambda x: (x * x).mean((2, 3)) - x.mean((2, 3)) ** 2),
    (F.relu, lambda x: torch.where(x <= 0, 0.0, x)),
    (F.relu, lambda x: x.masked_fill(x < 0, 0)),
    (F.relu, lambda x: (x + x.abs()) / 2),
    (F.relu, lambda x: x * (x > 0)),
    (F.relu, lambda x: -(-x).clamp(max=0)),
    (F.relu, lambda x: F.leaky_relu(x, 0.0)),
    (F.relu6, lambda x: 6 - F.relu(6 - F.relu(x))),
    (F.hardtanh, lambda x: F.relu(x + 1) - F.relu(x - 1) - 1),
    (F.hardsigmoid, lambda x: torch.where(x < -3, 0.0, torch.where(x > 3, 1.0, x / 6 + 0.5))),
    (F.hardswish, lambda x: torch.where(x <= -3, 0.0, torch.where(x >= 3, x, x * (x + 3) / 6))),
    (lambda x: F.leaky_relu(x, 0.2), lambda x: torch.where(x >= 0, x, 0.2 * x)),
    (lambda x: F.leaky_relu(x, 0.2), lambda x: F.relu(x) - 0.2 * F.relu(-x)),
    (lambda x: F.leaky_relu(x, 0.2), lambda x: 0.6 * x + 0.4 * x.abs()),
    (torch.abs, lambda x: torch.maximum(x, -x)),
    (torch.abs, lambda x: x * x.sign()),
    (lambda x: F.relu(x).square(), lambda x: F.relu(x) * x),
    (F.elu, lambda x: F.relu(x) + x.clamp(max=0).exp() - 1),
    (F.elu, F.celu),
    (F.softsign, lambda x: x / (1 + x.abs())),
    (F.selu, lambda x: 1.0507009873554805 * F.elu(x, 1.6732632423543772)),
    (F.softshrink, lambda x: F.relu(x - 0.5) - F.relu(-x - 0.5)),
    (F.hardshrink, lambda x: torch.where(x.abs() > 0.5, x, 0.0)),
    (lambda x: F.threshold(x, 0.25, -2.0), lambda x: torch.where(x > 0.25, x, -2.0)),
    (lambda x: (x.sin() - x.cos()).abs(), lambda x: (x.cos() - x.sin()).abs()),
    (lambda x: x.amax(1), lambda x: x.max(1)[0]),
    (lambda x: x.amax(1), lambda x: x.max(1).values),
    (lambda x: x.amax(1), lambda x: x.topk(1, 1)[0].squeeze(1)),
    (lambda x: x.amin(1), lambda x: x.min(1)[0]),
    (lambda x: F.adaptive_max_pool2d(x, 1), lambda x: x.amax(3, keepdim=True).amax(2, keepdim=True)),
    (lambda x: x.mean((2, 3)), lambda x: x.mean(3).mean(2)),
    (lambda x: x.softmax(1), lambda x: (e := (x - x.amax(1, keepdim=True)).exp()) / e.sum(1, keepdim=True)),
    (lambda x: x.softmax(1), lambda x: (x - x.max(1, keepdim=True)[0]).softmax(1)),
    (lambda x: x.log_softmax(1), lambda x: (x - x.amax(1, keepdim=True)).softmax(1).log()),
    (
        lambda x: x.logsumexp(1, keepdim=True),
        lambda x: (m := x.amax(1, keepdim=True)) + (x - m).exp().sum(1, keepdim=True).log(),
    ),
    (lambda x: F.max_pool2d(x, 3, 2, 1), lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-math.inf), 3, 2)),
    (lambda x: F.avg_pool2d(x, 3, 2, 1), lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)),
    (lambda x: F.max_pool2d(x, 5, 1, 2), lambda x: F.max_pool2d(F.max_pool2d(x, 3, 1, 1), 3, 1, 1)),
    (lambda x: F.max_pool2d(x, 5, 2, 2), lambda x: F.max_pool2d(F.max_pool2d(x, 3, 1, 1), 3, 2, 1)),
    (lambda x: F.interpolate(x, scale_factor=2).tanh(), lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3).tanh()),
    (
        lambda x: x.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf).softmax(-1),
        lambda x: torch.where(torch.ones(5, 5).tril() == 1, x, -1e9).softmax(-1),
    ),
    (
        lambda x: x.masked_fill(~((x.cos() > 0.5) & (x.tanh() < 0.9)), -1e9),
        lambda x: x.masked_fill(~(x.cos() > 0.5), -1e9).masked_fill((x.tanh() < 0.9) == 0, -1e9),
    ),
    (lambda x: (x == 1).logical_not() * x, lambda x: (x != 1) * x),
    (lambda x: x * x.exp().sqrt().reciprocal(), lambda x: x * x.exp().rsqrt()),
    (lambda x: x * (1 / x.exp().sqrt()), lambda x: x * x.exp().rsqrt()),
    (lambda x: (x != x.floor()).logical_not() * x, lambda x: (x == x.floor()) * x),
    (lambda x: (y := F.relu(x)).sin() + y.cos(), lambda x: F.relu(x).sin() + F.relu(x).cos()),
    (lambda x: x.tanh(), lambda x: stochastic_depth(x.tanh(), 0.1, "row", training=False)),
]


# Both sides differ on some input, however close they look: they must not be one graph.
NEAR_MISSES = [
    (lambda x: (x.sin() - x.cos()).abs(), lambda x: (x.sin() + x.cos()).abs()),
    (lambda x: (y := x.sin() - x.cos()).abs() + y, lambda x: (y := x.cos() - x.sin()).abs() + y),
    (lambda x: (x == 1).logical_not() * x, lambda x: (x == 1) * x),
    (lambda x: x * x.exp().sqrt(), lambda x: x * x.exp().rsqrt()),
    (lambda x: (x == 1).logical_not() * x, lambda x: (x != 2) * x),
    (F.relu, lambda x: x.clamp(min=0.1)),
    (F.relu, lambda x: F.threshold(x, 0, -0.1)),
    (F.relu, lambda x: torch.where(x > 0.1, x, 0.0)),
    (F.relu, lambda x: torch.where(x.tanh() > 0, x, 0.0)),
    (F.relu6, lambda x: x.clamp(0, 6.1)),
    (F.relu6, lambda x: x.clamp(max=6)),
    (lambda x: torch.maximum(x.sin(), x.cos()), lambda x: torch.where(x.sin() > x.cos(), x.cos(), x.sin())),
    (lambda x: torch.maximum(x.sin(), x.cos()), lambda x: torch.where(x.sin() > x.tanh(), x.sin(), x.cos())),
    (lambda x: torch.linalg.vector_norm(x.tanh(), dim=1), lambda x: (x.tanh() ** 2).mean(1).sqrt()),
    (lambda x: torch.linalg.vector_norm(x.tanh(), dim=1), lambda x: (x.tanh() ** 4).sum(1).sqrt()),
    (F.hardsigmoid, lambda x: (0.2 * x + 0.5).clamp(0, 1)),
    (F.hardsigmoid, lambda x: F.relu6(x + 3) / 6.01),
    (F.hardsigmoid, lambda x: ((x + 2.9) / 6).clamp(0, 1)),
    (F.hardswish, lambda x: x.tanh() * F.hardsigmoid(x)),
    (F.hardswish, lambda x: x * F.relu6(x + 2) / 6),
    (lambda x: x.masked_fill(x > 0.5, -1e9), lambda x: torch.where(x > 0.5, x, -1e9)),
    (lambda x: x.masked_fill(x > 0.5, -1e9), lambda x: x.masked_fill(x > 0.5, -1e8)),
    (lambda x: torch.constant_pad_nd(x, (1, 1)), lambda x: F.pad(x, (1, 1), value=0.1)),
    (lambda x: F.pad(x, (0, 0, 1, 0, 0, 0))[:, :, 1:], lambda x: F.pad(x, (0, 0, 0, 1))[:, :, :-1]),
    (lambda x: F.pad(x, (0, 1, 0, 0))[..., :-1], lambda x: F.pad(x, (0, 0, 0, 1))[..., :-1, :]),
    (lambda x: torch.constant_pad_nd(x, (1, 1, 1, 1)), lambda x: F.pad(x, (1, 1, 1, 1), "reflect")),
    (F.relu, lambda x: x * (x > -0.01)),
    (lambda x: (y := x.amax(2)).sin() + y.cos(), lambda x: x.amax(2).sin() + x.amax(3).cos()),
    (lambda x: x.var(2, correction=0), lambda x: (x * x).mean(3) - x.mean(2) ** 2),
    (lambda x: x.var(2, correction=0), lambda x: (x * x).mean(2) - x.mean(2) * x.tanh().mean(2)),
    (lambda x: x.var(2), lambda x: (x * x).mean(2) - x.mean(2) ** 2),
    (F.relu, lambda x: F.leaky_relu(x, 1e-8)),
    (F.relu, lambda x: (x + x.abs()) / 2 + F.relu(x - 1000)),
    (lambda x: F.threshold(x, 0.25, -2.0), lambda x: torch.where(x >= 0.25, x, -2.0)),
    (lambda x: (x > 0) * 1.0 + x, lambda x: (x >= 0) * 1.0 + x),
    (F.elu, lambda x: F.celu(x, 2.0)),
    (F.softshrink, lambda x: x.sign() * F.relu(x.abs() - 0.51)),
    (F.hardshrink, F.softshrink),
    (F.relu6, lambda x: 6.5 - F.relu(6.5 - F.relu(x))),
    (lambda x: x * (2.0 * (x > -1) + (x > 1)), lambda x: x * 2.0 * ((x > -1) + (x > 1))),
    (lambda x: x.amax(1), lambda x: x.topk(2, 1)[0].sum(1)),
    (lambda x: x.amax(1), lambda x: x.max(1)[1].float()),
    (lambda x: x.softmax(1), lambda x: (e := (x - x.amax(1, keepdim=True)).exp()) / (e.sum(1, keepdim=True) + 1e-9)),
    (lambda x: x.softmax(1), lambda x: (x - x.amax(1, keepdim=True)).clamp(min=-30).softmax(1)),
    (lambda x: x.softmax(1), lambda x: (x - x.amax(2, keepdim=True)).softmax(1)),
    (lambda x: F.max_pool2d(x, 3, 2, 1), lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)),
    (lambda x: F.max_pool2d(x, 5, 2, 2), lambda x: F.max_pool2d(F.max_pool2d(x, 3, 2, 1), 3, 1, 1)),
    (lambda x: F.max_pool2d(x, 5, 1, 2), lambda x: F.max_pool2d(F.max_pool2d(x, 3, 1), 3, 1, 1)),
    (lambda x: F.max_pool2d(x, 3, 2, 1), lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-50.0), 3, 2)),
    (lambda x: F.interpolate(x, scale_factor=1.5), lambda x: F.interpolate(x, scale_factor=2)),
    (
        lambda x: x.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf).softmax(-1),
        lambda x: x.masked_fill(torch.ones(5, 5).triu(1).bool(), -1e4).softmax(-1),
    ),
    (lambda x: x.masked_fill(x.int() == 0, -1e9), lambda x: x.masked_fill(x.int() != 1, -1e9)),
    (lambda x: x.masked_fill(x > 0.5, -math.inf), lambda x: x.masked_fill(x > 0.5, -1e9)),
    (
        lambda x: x.masked_fill((x > 0.5) | (x.tanh() < 0.9), -1e9),
        lambda x: x.masked_fill((x > 0.5) & (x.tanh() < 0.9), -1e9),
    ),
]


@pytest.mark.parametrize(("one", "other"), NEAR_MISSES)
def test_near_misses_are_two_graphs(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]) -> None:
    for x in (None, X.float()):
        assert _lines(_behind(one), x) != _lines(_behind(other), x)


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_both_sides_are_equal_and_one_graph(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]) -> None:
    assert torch.allclose(one(X), other(X), rtol=0, atol=1e-14)
    for x in (None, X.float()):
        assert sorted(_kinds(_behind(one), x)) == sorted(_kinds(_behind(other), x))


# Where pieces meet, ties, both zeros, and numbers far out.
HOSTILE = torch.tensor((0.0, -0.0, 0.25, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 6.0, 1e-8, -1e-8, 7.0, -400.0, 700.0, 1000.0))


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_both_sides_are_equal_where_pieces_meet_and_far_out(
    one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]
) -> None:
    chosen = torch.randint(len(HOSTILE), X.shape, generator=torch.Generator().manual_seed(0))
    for x in (HOSTILE.double()[chosen], HOSTILE.double().repeat(13)[:200].view(2, 4, 5, 5), torch.zeros_like(X)):
        ours, theirs = one(x), other(x)
        seen = torch.isfinite(ours) & torch.isfinite(theirs)  # a power of 1000 is none
        assert torch.allclose(ours[seen], theirs[seen], rtol=1e-12, atol=1e-12)


def test_a_linear_layer_is_one_operation_however_it_is_written() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight) + self.bias

    x = torch.randn(2, 5, 4)
    model, linear = Added(), nn.Linear(4, 3)
    linear.load_state_dict(model.state_dict())
    assert torch.allclose(model(x), linear(x), atol=1e-6)
    assert _kinds(model, x) == _kinds(linear, x) == ["input", "linear", "output"]


@pytest.mark.parametrize(
    ("layers", "kinds"),
    [
        ([nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)], ["convolution"]),
        ([nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)], ["conv_transpose"]),
        ([nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)], ["convolution", "batch_norm"]),
        ([nn.Conv2d(4, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)], ["convolution", "relu", "batch_norm"]),
        ([nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)], ["batch_norm", "convolution"]),
        ([nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6)], ["convolution", "batch_norm"]),
    ],
)
def test_a_norm_is_merged_only_where_it_can_be_folded(layers: list[nn.Module], kinds: list[str]) -> None:
    assert _kinds(nn.Sequential(*layers).eval()) == ["input", *kinds, "output"]


def test_a_shared_convolution_is_never_folded() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.conv(self.one(self.conv(x))))

    assert _kinds(Shared().eval()).count("batch_norm") == 2


class Embedded(nn.Module):
    """Three tables added up in some order, the first one an embedding or a matrix of which rows are taken."""

    def __init__(self, indexed: bool, turned: bool) -> None:
        super().__init__()
        self.indexed, self.turned = indexed, turned
        self.tokens = nn.Parameter(torch.randn(20, 6))
        self.positions, self.segment = nn.Parameter(torch.randn(1, 9, 6)), nn.Parameter(torch.randn(6))

    def forward(self, numbers: Tensor) -> Tensor:
        x = self.tokens[numbers] if self.indexed else F.embedding(numbers, self.tokens)
        terms = [self.segment, self.positions[:, : numbers.shape[1]]]
        first, second = terms if self.turned else terms[::-1]
        return ((x + first) + second).tanh()


def test_rows_of_a_table_and_sums_with_tensors_are_one_graph_in_any_spelling() -> None:
    numbers = torch.arange(14).view(2, 7)
    src, dst = Embedded(False, False), Embedded(True, True)
    mapping = fxmap.auto_map(src, dst, example_inputs=numbers)
    assert all(str(mapping[key]) == key for key in dst.state_dict())
    assert mapping.proof.status("tokens") is mapping.proof.status("segment") is Status.PROVEN
    assert _kinds(src, numbers) == _kinds(dst, numbers)
