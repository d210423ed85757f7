"""Pairs that read like one function in two spellings, and are not: each stands beside a pair of `spellings`."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Build, conv, free, net, normal, numbers
from benchmarks.proof.attacks.inputs import attending, holes, masking

Way = Callable[[Any], Any]

PIECES: tuple[tuple[str, Way, Way], ...] = (
    ("relu, where of another bound", F.relu, lambda h: torch.where(h > 1e-3, h, 0.0)),
    ("relu, filled above 0", F.relu, lambda h: h.masked_fill(h < -40, 0).clamp(min=-40)),
    ("relu, h times (h > -0.01)", F.relu, lambda h: h * (h > -0.01)),
    ("relu, half of h and more", F.relu, lambda h: (h + h.abs()) / 2 + F.relu(h - 50)),
    ("relu, leaky by 1e-8", F.relu, lambda h: F.leaky_relu(h, 1e-8)),
    (
        "leaky relu, of another slope below -30",
        lambda h: F.leaky_relu(h, 0.2),
        lambda h: torch.where(h > -30, F.leaky_relu(h, 0.2), 0.3 * h),
    ),
    ("leaky relu, two relus with a shift", lambda h: F.leaky_relu(h, 0.2), lambda h: F.relu(h) - 0.2 * F.relu(-h - 1e-6)),
    ("leaky relu, a slope in single precision", lambda h: F.leaky_relu(h, 0.2), lambda h: h * torch.where(h > 0, 1.0, 0.2)),
    (
        "two comparisons added, as numbers",
        lambda h: h * (2 * (h > -1).to(h.dtype) + (h > 1).to(h.dtype)),
        lambda h: h * (2 * ((h > -1) + (h > 1)).to(h.dtype)),
    ),
    ("leaky relu, the smaller of two", lambda h: F.leaky_relu(h, 0.2), lambda h: torch.maximum(h, h * 0.2).clamp(max=90)),
    ("relu6, 6.5 less a relu", F.relu6, lambda h: 6.5 - F.relu(6.5 - F.relu(h))),
    ("hardtanh, an outer where that is never reached", F.hardtanh, lambda h: torch.where(h > 60, 2.0, h.clamp(-1, 1))),
    (
        "hardsigmoid, of another slope",
        F.hardsigmoid,
        lambda h: torch.where(h < -3, 0.0, torch.where(h > 3, 1.0, h / 6.01 + 0.5)),
    ),
    (
        "hardswish, bounded by -3.5",
        F.hardswish,
        lambda h: torch.where(h <= -3.5, 0.0, torch.where(h >= 3, h, h * (h + 3) / 6)),
    ),
    ("absolute value, less far out", torch.abs, lambda h: torch.where(h < 0, -h, h.clamp(max=70))),
    ("square of relu, cube far out", lambda h: F.relu(h).square(), lambda h: torch.where(h > 50, h**3, F.relu(h) ** 2)),
    ("elu, of another alpha", F.elu, lambda h: F.relu(h) + 1.01 * (h.clamp(max=0).exp() - 1)),
    ("elu, celu of 2", F.elu, lambda h: F.celu(h, 2.0)),
    ("softshrink, of another bound", F.softshrink, lambda h: h.sign() * F.relu(h.abs() - 0.51)),
    ("hardshrink, softshrink", F.hardshrink, lambda h: torch.where(h.abs() > 0.5, h - 0.5 * h.sign(), 0.0)),
    (
        "threshold, where with another value",
        lambda h: F.threshold(h, -60.0, -60.0),
        lambda h: torch.where(h > -60, h, -59.0),
    ),
    ("softmax, over another axis", lambda h: h.softmax(-1), lambda h: (h - h.amax(0, keepdim=True)).softmax(0)),
    (
        "softmax, of bounded differences",
        lambda h: h.softmax(-1),
        lambda h: (h - h.amax(-1, keepdim=True)).clamp(min=-30).softmax(-1),
    ),
    (
        "softmax, by the largest of all",
        lambda h: h.softmax(-1),
        lambda h: (e := (h - h.amax(-1, keepdim=True)).exp()) / (e.sum(-1, keepdim=True) + 1e-13),
    ),
    (
        "softmax, each less its own largest",
        lambda h: h.softmax(0),
        lambda h: (e := (h - h.amax(-1, keepdim=True)).exp()) / e.sum(0, keepdim=True),
    ),
    (
        "logsumexp, without its largest",
        lambda h: h - h.logsumexp(-1, keepdim=True),
        lambda h: h - (h - h.amax(-1, keepdim=True)).exp().sum(-1, keepdim=True).log(),
    ),
    (
        "largest, of absolute values",
        lambda h: h.relu() - h.relu().amax(-1, keepdim=True),
        lambda h: h.relu() - h.amax(-1, keepdim=True),
    ),
    ("largest, the second", lambda h: h - h.amax(-1, keepdim=True), lambda h: h - h.topk(2, -1)[0][..., 1:]),
    ("smallest, minus the smallest", lambda h: h - h.amin(-1, keepdim=True), lambda h: h + (-h).amin(-1, keepdim=True)),
    (
        "unit length, of another bound",
        lambda h: F.normalize(h, dim=-1),
        lambda h: h / h.norm(dim=-1, keepdim=True).clamp(min=100),
    ),
)

MASKED: dict[str, Callable[[Any, Any], Any]] = {
    "masked_fill": lambda w, m: w.masked_fill(m[:, None] == 0, -1e9),
    "of m != 1": lambda w, m: w.masked_fill(m[:, None] != 1, -1e9),
    "of m < 1": lambda w, m: w.masked_fill(m[:, None] < 1, -1e9),
    "of another axis": lambda w, m: w.masked_fill(m[:, :, None] == 0, -1e9),
    "of m": lambda w, m: w.masked_fill(m[:, None] != 0, -1e9),
    "of -1e4": lambda w, m: w.masked_fill(m[:, None] == 0, -1e4),
    "a product": lambda w, m: w * (m[:, None] != 0),
    "minus infinity": lambda w, m: w.masked_fill(m[:, None] == 0, -math.inf).nan_to_num(0.0),
    "shifted": lambda w, m: w.masked_fill(m.roll(1, 1)[:, None] == 0, -1e9),
}


def attacks() -> Iterator[Attack]:
    """Yield the attacks."""
    for name, one, other in PIECES:
        yield net(name, _on(one), _on(other), shape=(9, 8), scale=100)
    slopes: dict[str, Build] = {"a": lambda: nn.Linear(8, 8), "p": lambda: nn.PReLU(8), "h": lambda: nn.Linear(8, 4)}
    yield free("prelu, where with a bound", lambda m, x: m.h(m.p(m.a(x))),
               lambda m, x: m.h(torch.where((h := m.a(x)) > 0, h, m.p.weight * h.clamp(min=-50))), slopes, normal(5, 8),
               normal(9, 8, scale=400, seed=1))  # fmt: skip
    yield from _masks()
    yield from _windows()
    table: dict[str, Build] = {"e": lambda: nn.Embedding(20, 8), "h": lambda: nn.Linear(8, 4)}
    yield free("embedding, one_hot of other numbers", lambda m, i: m.h(torch.tanh(m.e(i))),
               lambda m, i: m.h(torch.tanh(F.one_hot(i.clamp(max=18), 20).to(m.e.weight.dtype) @ m.e.weight)), table,
               lambda: (numbers(18, 2, 6),), lambda: (numbers(20, 3, 30, seed=1),))  # fmt: skip
    yield free("embedding, one_hot of twos", lambda m, i: m.h(torch.tanh(m.e(i))),
               lambda m, i: m.h(torch.tanh(2 * F.one_hot(i, 20).to(m.e.weight.dtype) @ m.e.weight)), table,
               lambda: (numbers(20, 2, 6),), lambda: (numbers(20, 3, 30, seed=1),))  # fmt: skip
    yield free("rows of a table, ids below 0 have none", lambda m, i: m.h(m.e.weight[i]),
               lambda m, i: m.h((i[..., None] == torch.arange(20)).to(m.e.weight.dtype) @ m.e.weight), table,
               lambda: (numbers(20, 2, 6),), lambda: (-numbers(20, 3, 30, seed=1),))  # fmt: skip
    plain: dict[str, Build] = {"a": lambda: nn.Linear(8, 8, bias=False), "h": lambda: nn.Linear(8, 4)}
    yield free("sign, a little above 0", lambda m, x: m.h(m.a(x).sign()), lambda m, x: m.h((m.a(x) + 1e-13).sign()), plain,
               normal(5, 8), lambda: (torch.zeros(5, 8),))  # fmt: skip


def _on(way: Way) -> Callable[[Any, Any], Any]:
    return lambda h, _: way(h)


def _masks() -> Iterator[Attack]:
    ids, odd = numbers(20, 2, 6), holes(2, 6) * torch.tensor([1, 1, 1, 2, -1, 1])
    first = next(iter(MASKED.values()))
    for name, way in list(MASKED.items())[1:]:
        yield Attack(f"a mask, {name}", masking(first), masking(way), lambda: (ids, torch.ones_like(ids)),
                     lambda: (ids, odd * (torch.arange(2)[:, None] > 0)))  # fmt: skip
    fills: dict[str, Way] = {
        "of another diagonal": lambda w: w.masked_fill(torch.ones(w.shape[-2:]).triu(2).bool(), -math.inf),
        "in a window of 40": lambda w: w.masked_fill(
            torch.ones(w.shape[-2:]).triu(1).bool() | torch.ones(w.shape[-2:]).tril(-40).bool(), -math.inf
        ),
        "of -100": lambda w: w.masked_fill(torch.ones(w.shape[-2:]).triu(1).bool(), -100.0),
        "added -100": lambda w: w + torch.full(w.shape[-2:], -100.0, dtype=w.dtype).triu(1),
        "less 100": lambda w: w - 100.0 * torch.ones(w.shape[-2:]).triu(1),
        "less 100, of integers": lambda w: w - 100 * torch.ones(w.shape[-2:]).triu(1).long(),
        "of -1e4": lambda w: w.masked_fill(torch.ones(w.shape[-2:]).triu(1).bool(), -1e4),
    }
    usual: Way = lambda w: w.masked_fill(torch.ones(w.shape[-2:]).triu(1).bool(), -math.inf)  # noqa: E731 -- a way beside ways
    for name, fill in fills.items():
        yield Attack(f"causal, {name}", attending(usual), attending(fill), lambda: (ids,),
                     lambda: (numbers(20, 2, 60, seed=1),), train=_sharpen)  # fmt: skip


def _sharpen(model: Any) -> None:
    """Leave scores of many thousands, as some trained models have."""
    with torch.no_grad():
        model.q.weight.mul_(3000)
        model.k.weight.mul_(30)


def _windows() -> Iterator[Attack]:
    for name, one, other in (
        (
            "largest, mean of the largest",
            lambda h: h.amax((2, 3), keepdim=True),
            lambda h: h.amax(3, keepdim=True).mean(2, keepdim=True),
        ),
        (
            "largest of rows alone",
            lambda h: h.amax((2, 3), keepdim=True).expand_as(h),
            lambda h: h.amax(3, keepdim=True).expand_as(h),
        ),
        (
            "padded by 0 before the pool",
            lambda h: F.max_pool2d(h, 3, 2, 1),
            lambda h: F.max_pool2d(F.pad(h, (1, 1, 1, 1)), 3, 2),
        ),
        (
            "padded by -50 before the pool",
            lambda h: F.max_pool2d(h, 3, 2, 1),
            lambda h: F.max_pool2d(F.pad(h, (1, 1, 1, 1), value=-50.0), 3, 2),
        ),
        ("nearest, exact", lambda h: F.interpolate(h, (5, 5)), lambda h: F.interpolate(h, (5, 5), mode="nearest-exact")),
        (
            "largest of three of four slices",
            lambda h: F.max_pool2d(h, 2),
            lambda h: torch.maximum(h[..., ::2, ::2], torch.maximum(h[..., ::2, 1::2], h[..., 1::2, 1::2])),
        ),
    ):
        yield conv(name, _on(one), _on(other), example=(1, 3, 16, 16), probe=(2, 3, 20, 16), scale=200)
    layers: dict[str, Build] = {"a": lambda: nn.Conv1d(8, 8, 1), "b": lambda: nn.Conv1d(8, 4, 3)}
    left: Callable[..., Any] = lambda m, x: m.b(F.pad(torch.tanh(m.a(x)), (2, 0)))  # noqa: E731 -- used twice
    wrong: tuple[tuple[str, Callable[..., Any]], ...] = (
        (
            "causal, cut on the other side",
            lambda m, x: F.conv1d(torch.tanh(m.a(x)), m.b.weight, m.b.bias, padding=2)[..., 2:],
        ),
        ("causal, padded on both sides", lambda m, x: F.conv1d(torch.tanh(m.a(x)), m.b.weight, m.b.bias, padding=1)),
        ("causal, padded by ones", lambda m, x: m.b(F.pad(torch.tanh(m.a(x)), (2, 0), value=1.0))),
    )
    for name, right in wrong:
        yield free(name, left, right, layers, normal(2, 8, 9), normal(2, 8, 13, seed=1))
