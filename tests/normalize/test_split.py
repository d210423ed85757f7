"""Joined and separate projections, interleaved or not, and the index maps that follow."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.expressions.base import Source
from fxmap.expressions.layout import Concat, Gather, Slice
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status
from fxmap.matching.sides import side
from fxmap.model.inputs import as_inputs
from fxmap.testing.planted import randomised

HEADS, WIDTH = 2, 8


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Separate(nn.Module):
    """Three projections, in an order of registration that says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.a, self.b, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] < 2:  # keeps symbolic tracing out
            raise ValueError("too short")
        q, k, v = (p(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in (self.a, self.b, self.c))
        return self.out(_attend(q, k, v))


class Joined(nn.Module):
    """One projection: `order` is that of q, k and v in it; interleaved, each head has its three in a row."""

    def __init__(self, order: str = "qkv", interleaved: bool = False) -> None:
        super().__init__()
        self.order, self.interleaved = order, interleaved
        self.joined, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] < 2:
            raise ValueError("too short")
        value = self.joined(x)
        if self.interleaved:
            parts = value.unflatten(-1, (HEADS, 3, -1)).unbind(-2)
        else:
            parts = value.unflatten(-1, (3, HEADS, -1)).unbind(-3)
        named = dict(zip(self.order, (part.transpose(1, 2) for part in parts), strict=True))
        return self.out(_attend(named["q"], named["k"], named["v"]))


class JoinedInputsFirst(nn.Module):
    """One projection whose weight is `i o`, as GPT-2's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(WIDTH, 3 * WIDTH)), nn.Parameter(torch.randn(3 * WIDTH))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] < 2:
            raise ValueError("too short")
        value = torch.addmm(self.bias, x.flatten(0, 1), self.weight).view(*x.shape[:2], -1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in value.split(WIDTH, -1))
        return self.out(_attend(q, k, v))


class ByMultiheadAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


X = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
FORMS = [
    Separate,
    Joined,
    lambda: Joined("kvq"),
    lambda: Joined(interleaved=True),
    lambda: Joined("vqk", True),
    ByMultiheadAttention,
    JoinedInputsFirst,
]


def _check(src: nn.Module, dst: nn.Module) -> KeyMapping:
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert mapping.proof.ok, str(mapping)
    mapping.load_into(dst, src.state_dict())
    y = torch.randn(3, 9, WIDTH)
    assert torch.allclose(src(y), dst(y), atol=1e-5)
    return mapping


@pytest.mark.parametrize("ours", range(len(FORMS)))
@pytest.mark.parametrize("theirs", range(len(FORMS)))
def test_every_layout_maps_to_every_other(ours: int, theirs: int) -> None:
    src, dst = randomised(FORMS[ours](), 1).eval(), randomised(FORMS[theirs](), 2).eval()
    mapping = _check(src, dst)
    assert not mapping.missing
    assert not mapping.unexpected
    assert KeyMapping.from_json(mapping.to_json()) == mapping


def test_the_expressions_say_what_was_done() -> None:
    joined, separate = randomised(Joined("kvq"), 1).eval(), randomised(Separate(), 2).eval()
    split = _check(joined, separate)
    assert split["a.weight"] == Slice(Source("joined.weight"), 2 * WIDTH, 3 * WIDTH)
    assert split["b.bias"] == Slice(Source("joined.bias"), 0, WIDTH)
    together = _check(separate, joined)
    assert together["joined.weight"] == Concat((Source("b.weight"), Source("c.weight"), Source("a.weight")))
    interleaved = _check(separate, randomised(Joined(interleaved=True), 3).eval())
    assert isinstance(interleaved["joined.weight"], Gather)


def test_swapped_q_and_k_are_never_proven() -> None:
    src, dst = randomised(Separate(), 1).eval(), randomised(Separate(), 2).eval()
    mapping = {key: Source(key) for key in dst.state_dict()}
    for name in ("weight", "bias"):
        mapping[f"a.{name}"], mapping[f"b.{name}"] = mapping[f"b.{name}"], mapping[f"a.{name}"]
    proof = fxmap.verify(src, dst, mapping, example_inputs=X)
    assert not proof.ok
    assert proof.status("a.weight") is fxmap.Status.MATCHED
    assert proof.status("b.weight") is fxmap.Status.MATCHED


def test_pointwise_convolution_and_linear() -> None:
    class Head(nn.Module):
        def __init__(self, linear: bool) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 6, 3)
            self.head = nn.Linear(6, 4) if linear else nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x).mean((2, 3), keepdim=True)
            return self.head(x.flatten(1)) if isinstance(self.head, nn.Linear) else self.head(x).flatten(1)

    for linear in (True, False):
        src, dst = randomised(Head(linear), 1).eval(), randomised(Head(not linear), 2).eval()
        mapping = fxmap.auto_map(src, dst)
        assert mapping.proof.ok, str(mapping)
        mapping.load_into(dst, src.state_dict())
        x = torch.randn(2, 3, 12, 12)
        assert torch.allclose(src(x), dst(x), atol=1e-5)


@pytest.mark.parametrize(
    ("scaled", "parts"),
    [
        (lambda x, table: x * table, 2),
        (lambda x, table: table * x, 2),
        (lambda x, table: x / table, 2),
        (lambda x, table: x / 3, 2),
        (lambda x, table: table / x, 1),
        (lambda x, table: x * x, 1),
    ],
)
def test_what_scales_is_followed_and_what_does_not_is_a_consumer(
    scaled: Callable[[Tensor, Tensor], Tensor], parts: int
) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.joined = nn.Linear(WIDTH, 6)

        def forward(self, x: Tensor) -> Tensor:
            one, other = scaled(self.joined(x), torch.arange(1.0, 7.0)).chunk(2, -1)
            return one.tanh() + other.exp()

    assert len(side(Scaled(), as_inputs(X)).main.ops.of_kind({"linear"})) == parts


class Gated(nn.Module):
    """A gated layer that can be traced, so that no shapes are known: the gate is the first half of the rows, or the last."""

    def __init__(self, gate: int) -> None:
        super().__init__()
        self.gate, self.joined, self.out = gate, nn.Linear(WIDTH, 6), nn.Linear(3, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.joined(x).chunk(2, -1)
        return self.out(parts[self.gate].sigmoid() * parts[1 - self.gate])


def test_halves_the_other_way_round_are_exchanged_where_a_trace_knows_no_shapes() -> None:
    src, dst = randomised(Gated(0), 0), randomised(Gated(1), 1)
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert str(mapping["joined.weight"]) == "concat(joined.weight[3:6], joined.weight[0:3])"
    assert mapping.proof.ok, str(mapping)
    # As they are, each row would be read by what reads another one in the source: nothing of that may be called proven.
    proof = fxmap.verify(src, dst, {key: key for key in dst.state_dict()}, X)
    assert not proof.ok
    assert proof.status("joined.weight") is Status.MATCHED


class _Gated(nn.Module):
    """A part of a joined layer, or a layer of its own, behind an activation that is spelled by pieces."""

    def __init__(self, *, joined: bool) -> None:
        super().__init__()
        self.joined = joined
        self.layers = nn.ModuleList([nn.Linear(5, 6)] if joined else [nn.Linear(5, 3), nn.Linear(5, 3)])

    def forward(self, x: Tensor) -> Tensor:
        if self.joined:
            a, b = self.layers[0](x).chunk(2, -1)
            return torch.cat([a, torch.where(b > 0, b + 1, b.exp())], -1)
        return torch.cat([self.layers[0](x), torch.nn.functional.elu(self.layers[1](x)) + 1], -1)


def test_an_activation_that_a_rule_names_keeps_reading_its_part_of_a_joined_layer() -> None:
    mapping = fxmap.auto_map(_Gated(joined=False), _Gated(joined=True), example_inputs=torch.randn(4, 5))
    assert mapping.proof.ok
