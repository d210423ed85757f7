"""More pairs that are one function: what is made of pieces, masks, windows and products, each in the words of other code."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Build, Free, conv, free, net, normal, numbers
from benchmarks.proof.attacks.inputs import QKV, attending, attention, holes, masking, sdpa

Way = Callable[[Any], Any]

PIECES: tuple[tuple[str, Way, Way], ...] = (
    ("relu, h where it is not below 0", F.relu, lambda h: torch.where(h <= 0, 0.0, h)),
    ("relu, filled below 0", F.relu, lambda h: h.masked_fill(h < 0, 0)),
    ("relu, half of h and its absolute value", F.relu, lambda h: (h + h.abs()) / 2),
    ("relu, h times a float of h > 0", F.relu, lambda h: h * (h > 0).to(h.dtype)),
    ("relu, clip", F.relu, lambda h: h.clip(0)),
    ("relu, minus the smaller of -h and 0", F.relu, lambda h: -(-h).clamp(max=0)),
    ("relu, leaky by 0", F.relu, lambda h: F.leaky_relu(h, 0.0)),
    ("leaky relu, where of >=", lambda h: F.leaky_relu(h, 0.2), lambda h: torch.where(h >= 0, h, 0.2 * h)),
    ("leaky relu, two relus", lambda h: F.leaky_relu(h, 0.2), lambda h: F.relu(h) - 0.2 * F.relu(-h)),
    ("leaky relu, two clamps", lambda h: F.leaky_relu(h, 0.2), lambda h: h.clamp(min=0) + 0.2 * h.clamp(max=0)),
    ("leaky relu, a product", lambda h: F.leaky_relu(h, 0.25), lambda h: h * torch.where(h > 0, 1.0, 0.25)),
    ("leaky relu, h and its absolute value", lambda h: F.leaky_relu(h, 0.2), lambda h: 0.6 * h + 0.4 * h.abs()),
    ("relu6, 6 less a relu", F.relu6, lambda h: 6 - F.relu(6 - F.relu(h))),
    ("relu6, the smaller of relu and a tensor", F.relu6, lambda h: torch.minimum(F.relu(h), torch.tensor(6.0))),
    ("hardtanh, two where", F.hardtanh, lambda h: torch.where(h > 1, 1.0, torch.where(h < -1, -1.0, h))),
    ("hardtanh, two relus", F.hardtanh, lambda h: F.relu(h + 1) - F.relu(h - 1) - 1),
    ("hardsigmoid, times a sixth", F.hardsigmoid, lambda h: F.relu6(3 + h) * (1 / 6)),
    ("hardsigmoid, where", F.hardsigmoid, lambda h: torch.where(h < -3, 0.0, torch.where(h > 3, 1.0, h / 6 + 0.5))),
    ("hardswish, where", F.hardswish, lambda h: torch.where(h <= -3, 0.0, torch.where(h >= 3, h, h * (h + 3) / 6))),
    ("hardswish, h / 6 first", F.hardswish, lambda h: (h / 6) * F.relu6(h + 3)),
    ("absolute value, where", torch.abs, lambda h: torch.where(h < 0, -h, h)),
    ("absolute value, the larger of both", torch.abs, lambda h: torch.maximum(h, -h)),
    ("absolute value, times the sign", torch.abs, lambda h: h * h.sign()),
    ("square of relu, relu times h", lambda h: F.relu(h).square(), lambda h: F.relu(h) * h),
    ("square of relu, where", lambda h: F.relu(h).pow(2), lambda h: torch.where(h > 0, h * h, 0.0)),
    ("elu, two parts", F.elu, lambda h: F.relu(h) + h.clamp(max=0).exp() - 1),
    ("elu, celu of 1", F.elu, F.celu),
    ("selu, elu", F.selu, lambda h: 1.0507009873554805 * F.elu(h, 1.6732632423543772)),
    ("softshrink, two relus", F.softshrink, lambda h: F.relu(h - 0.5) - F.relu(-h - 0.5)),
    ("softshrink, sign", F.softshrink, lambda h: h.sign() * F.relu(h.abs() - 0.5)),
    ("hardshrink, where", F.hardshrink, lambda h: torch.where(h.abs() > 0.5, h, 0.0)),
    ("threshold, where", lambda h: F.threshold(h, 0.3, -2.0), lambda h: torch.where(h > 0.3, h, -2.0)),
    ("softplus, logarithm", F.softplus, lambda h: torch.log1p(h.exp())),
    ("softplus, the larger of both", F.softplus, lambda h: F.relu(h) + torch.log1p((-h.abs()).exp())),
    ("silu, a quotient", F.silu, lambda h: h / (1 + torch.exp(-h))),
    ("sigmoid, tanh", torch.sigmoid, lambda h: 0.5 * (1 + torch.tanh(h / 2))),
    ("fast gelu, in another order", lambda h: h * torch.sigmoid(1.702 * h), lambda h: (h * 1.702).sigmoid() * h),
    ("softmax, of differences", lambda h: h.softmax(-1), lambda h: (h - h.max(-1, keepdim=True)[0]).softmax(-1)),
    ("softmax, exponential of its logarithm", lambda h: h.softmax(-1), lambda h: F.log_softmax(h, -1).exp()),
    ("logarithm of softmax", lambda h: h.log_softmax(-1), lambda h: h.softmax(-1).log()),
    ("logsumexp, by hand", lambda h: h - h.logsumexp(-1, keepdim=True), lambda h: h - _logsumexp(h)),
    ("softmin, softmax", lambda h: F.softmin(h, -1), lambda h: (-h).softmax(-1)),
    ("largest, a sorted one", lambda h: h - h.amax(-1, keepdim=True), lambda h: h - h.topk(1, -1)[0]),
    ("smallest, minus the largest", lambda h: h - h.amin(-1, keepdim=True), lambda h: h + (-h).amax(-1, keepdim=True)),
    ("largest, by values", lambda h: h - h.amax(-1, keepdim=True), lambda h: h - h.max(-1, keepdim=True).values),
    ("unit length", lambda h: F.normalize(h, dim=-1), lambda h: h / h.norm(dim=-1, keepdim=True).clamp(min=1e-12)),
)


def _logsumexp(h: Tensor) -> Tensor:
    largest = h.amax(-1, keepdim=True)
    return largest + (h - largest).exp().sum(-1, keepdim=True).log()


def pieces() -> Iterator[Attack]:
    """Yield functions of numbers that are made of pieces, and of rows."""
    for name, one, other in PIECES:
        yield net(name, _on(one), _on(other), shape=(9, 8), scale=4)
    slopes: dict[str, Build] = {"a": lambda: nn.Linear(8, 8), "p": lambda: nn.PReLU(8), "h": lambda: nn.Linear(8, 4)}
    ways: dict[str, Callable[[Any, Any], Any]] = {
        "where": lambda h, w: torch.where(h > 0, h, w * h),
        "two relus": lambda h, w: F.relu(h) - w * F.relu(-h),
        "two clamps": lambda h, w: h.clamp(min=0) + w * h.clamp(max=0),
    }
    for name, way in ways.items():
        yield free(f"prelu, {name}", lambda m, x: m.h(m.p(m.a(x))), lambda m, x, way=way: m.h(way(m.a(x), m.p.weight)),
                   slopes, normal(5, 8), normal(9, 8, scale=4, seed=1))  # fmt: skip
    wide: dict[str, Build] = {"a": lambda: nn.Linear(8, 16), "h": lambda: nn.Linear(8, 4)}
    gates: dict[str, Way] = {
        "chunks": lambda h: h.chunk(2, -1)[0] * h.chunk(2, -1)[1].sigmoid(),
        "slices": lambda h: h[..., :8] * torch.sigmoid(h[..., 8:]),
        "split": lambda h: torch.sigmoid(h.split(8, -1)[1]) * h.split(8, -1)[0],
    }
    for name, gate in gates.items():
        yield free(f"glu, {name}", lambda m, x: m.h(F.glu(m.a(x), -1)), lambda m, x, gate=gate: m.h(gate(m.a(x))), wide,
                   normal(5, 8), normal(9, 8, seed=1))  # fmt: skip


def _on(way: Way) -> Callable[[Any, Any], Any]:
    return lambda h, _: way(h)


def _causal(n: int) -> Tensor:
    return torch.ones(n, n).tril().bool()


_LOW = torch.finfo(torch.float32).min

FILLED: dict[str, Way] = {
    "masked_fill of -inf": lambda w: w.masked_fill(~_causal(w.shape[-1]), -math.inf),
    "masked_fill of finfo.min": lambda w: w.masked_fill(_causal(w.shape[-1]) == 0, _LOW),
    "where of -1e9": lambda w: torch.where(_causal(w.shape[-1]), w, -1e9),
    "where of a tensor": lambda w: torch.where(_causal(w.shape[-1]), w, torch.full_like(w, _LOW)),
    "added triu": lambda w: w + torch.full((w.shape[-1],) * 2, -math.inf, dtype=w.dtype).triu(1),
    "added fill of zeros": lambda w: w + torch.zeros_like(w).masked_fill(_causal(w.shape[-1]).logical_not(), -math.inf),
    "arange": lambda w: w.masked_fill(torch.arange(w.shape[-1]) > torch.arange(w.shape[-1])[:, None], -math.inf),
    "differences of arange": lambda w: w.masked_fill(
        (torch.arange(w.shape[-1])[:, None] - torch.arange(w.shape[-1])) < 0, -math.inf
    ),
}

MASKED: dict[str, Callable[[Any, Any], Any]] = {
    "masked_fill": lambda w, m: w.masked_fill(m[:, None] == 0, -1e9),
    "where of bool": lambda w, m: torch.where(m.bool()[:, None, :], w, -1e9),
    "where of a negation": lambda w, m: torch.where(~(m != 0).unsqueeze(1), torch.tensor(-1e9, dtype=w.dtype), w),
    "masked_fill of 0 as bool": lambda w, m: w.masked_fill(m.eq(0).unsqueeze(-2).expand_as(w), -1e9),
    "masked_fill of logical_not": lambda w, m: w.masked_fill(m.logical_not().view(m.shape[0], 1, -1), -1e9),
}

BOTH: dict[str, Callable[[Any, Any], Any]] = {
    "of both": lambda w, m: w.masked_fill(~(_causal(w.shape[-1]) & m.bool()[:, None]), -math.inf),
    "one after the other": lambda w, m: w.masked_fill(~_causal(w.shape[-1]), -math.inf).masked_fill(
        m[:, None] == 0, -math.inf
    ),
    "the other first": lambda w, m: torch.where(
        _causal(w.shape[-1]), w.masked_fill(~m.bool()[:, None], -math.inf), -math.inf
    ),
    "of either": lambda w, m: w.masked_fill((m == 0)[:, None] | ~_causal(w.shape[-1]), -math.inf),
    "added": lambda w, m: (
        w
        + torch.zeros_like(w).masked_fill(~_causal(w.shape[-1]), -math.inf)
        + torch.zeros_like(w).masked_fill((m == 0)[:, None], -math.inf)
    ),
}


def masks() -> Iterator[Attack]:
    """Yield masks of positions, of an input, and of both, and attention that is given them."""
    ids = numbers(20, 2, 6)
    given, more = (lambda: (ids,)), (lambda: (numbers(20, 2, 9, seed=1),))
    masked, holed = (lambda: (ids, torch.ones_like(ids))), (lambda: (ids, _left_open()))
    usual = next(iter(FILLED.values()))
    for name, way in list(FILLED.items())[1:]:
        yield Attack(f"causal, {name}", attending(usual), attending(way), given, more)
    for ways, what in ((MASKED, "a mask"), (BOTH, "causal and a mask")):
        first = next(iter(ways.values()))
        for name, with_mask in list(ways.items())[1:]:
            yield Attack(f"{what}, {name}", masking(first), masking(with_mask), masked, holed)
    fused: dict[str, Callable[..., Any]] = {
        "is_causal": lambda m, i: sdpa(m, i, is_causal=True),
        "bools": lambda m, i: sdpa(m, i, attn_mask=_causal(i.shape[1])),
        "floats": lambda m, i: sdpa(m, i, attn_mask=_added(i.shape[1], m.e.weight.dtype)),
    }
    for name, attend in fused.items():
        yield Attack(f"causal sdpa, {name}", attending(usual), _fused(attend), given, more)
    yield Attack("scaled sdpa", lambda: Free(lambda m, i: attention(m, i, lambda w: w * 0.5), QKV),
                 lambda: Free(lambda m, i: sdpa(m, i, scale=0.5 * 8**-0.5), QKV), given, more)  # fmt: skip
    yield Attack("a mask of bools times values", lambda: Free(lambda m, i, k: m.q(m.e(i)) * k[..., None], QKV),
                 lambda: Free(lambda m, i, k: m.q(m.e(i)).masked_fill(~k[..., None], 0.0), QKV),
                 lambda: (ids, torch.ones_like(ids).bool()), lambda: (ids, holes(2, 6).bool()))  # fmt: skip


def _fused(attend: Callable[..., Any]) -> Build:
    return lambda: Free(attend, QKV)


def _left_open() -> Tensor:
    """Return a mask with holes, and none at the first position: no row of a causal mask is empty."""
    return holes(2, 6)


def _added(n: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(n, n, dtype=dtype).masked_fill(~_causal(n), -math.inf)


WINDOWS: tuple[tuple[str, Way, Way], ...] = (
    (
        "largest of the map, flattened",
        lambda h: h.amax((2, 3), keepdim=True),
        lambda h: h.flatten(2).max(-1)[0][..., None, None],
    ),
    (
        "largest of the map, axis by axis",
        lambda h: F.adaptive_max_pool2d(h, 1),
        lambda h: h.max(3, keepdim=True)[0].max(2, keepdim=True)[0],
    ),
    (
        "mean of the map, a sum",
        lambda h: F.adaptive_avg_pool2d(h, 1),
        lambda h: h.sum((2, 3), keepdim=True) / (h.shape[2] * h.shape[3]),
    ),
    (
        "mean of the map, axis by axis",
        lambda h: h.mean((2, 3), keepdim=True),
        lambda h: h.mean(3, keepdim=True).mean(2, keepdim=True),
    ),
    (
        "nearest, by view and expand",
        lambda h: F.interpolate(h, scale_factor=2),
        lambda h: h[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2).flatten(4).flatten(2, 3),
    ),
    ("nearest, a module", nn.Upsample(scale_factor=2), lambda h: F.interpolate(h, scale_factor=(2, 2), mode="nearest")),
    ("every second, nearest", lambda h: h[..., ::2, ::2], lambda h: F.interpolate(h, scale_factor=0.5)),
    (
        "average of two by two, by view",
        lambda h: F.avg_pool2d(h, 2),
        lambda h: h.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5)),
    ),
    (
        "largest of two by two, by view",
        lambda h: F.max_pool2d(h, 2),
        lambda h: h.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5)),
    ),
    (
        "largest of two by two, of slices",
        lambda h: F.max_pool2d(h, 2),
        lambda h: torch.maximum(
            torch.maximum(h[..., ::2, ::2], h[..., 1::2, ::2]), torch.maximum(h[..., ::2, 1::2], h[..., 1::2, 1::2])
        ),
    ),
    ("reflected, by flips", lambda h: F.pad(h, (1, 0, 0, 0), "reflect"), lambda h: torch.cat([h[..., 1:2], h], -1)),
    (
        "repeated edge, by cat",
        lambda h: F.pad(h, (2, 0, 0, 0), "replicate"),
        lambda h: torch.cat([h[..., :1], h[..., :1], h], -1),
    ),
    (
        "channels shuffled, by view",
        lambda h: F.channel_shuffle(h, 2),
        lambda h: h.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2),
    ),
    ("halves in another order", lambda h: torch.cat(h.chunk(2, 1)[::-1], 1), lambda h: h.roll(3, 1)),
    (
        "a gate by 1x1, by mean of views",
        lambda h: h * h.mean((2, 3), keepdim=True).sigmoid(),
        lambda h: h * h.flatten(2).mean(2).sigmoid()[..., None, None],
    ),
)


def windows() -> Iterator[Attack]:
    """Yield pools, resizing, padding and causal convolutions."""
    for name, one, other in WINDOWS:
        yield conv(name, _on(one), _on(other), example=(1, 3, 16, 16), probe=(2, 3, 20, 16), scale=3)
    for what, pooled, other in (
        ("largest", lambda h: F.max_pool2d(h, 8), lambda h: h.amax((2, 3), keepdim=True)),
        ("mean", lambda h: F.avg_pool2d(h, 8), lambda h: h.flatten(2).mean(2)[..., None, None]),
    ):
        yield conv(f"a pool as large as the map, {what}", _on(pooled), _on(other), example=(1, 3, 8, 8), probe=(2, 3, 8, 8))
    layered: tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...] = (
        (
            "zeros around, padding",
            lambda m, x: m.b(F.pad(F.relu(m.a(x)), (1, 1))),
            lambda m, x: _conv(m.b, F.relu(m.a(x)), 1),
        ),
        (
            "causal, pad and cut",
            lambda m, x: m.b(F.pad(torch.tanh(m.a(x)), (2, 0))),
            lambda m, x: _conv(m.b, torch.tanh(m.a(x)), 2)[..., :-2],
        ),
        (
            "causal, pad and cut to the length",
            lambda m, x: m.b(F.pad(torch.tanh(m.a(x)), (2, 0))),
            lambda m, x: _conv(m.b, torch.tanh(m.a(x)), 2)[:, :, : x.shape[-1]],
        ),
        (
            "causal, cat of zeros",
            lambda m, x: m.b(F.pad(torch.tanh(m.a(x)), (2, 0))),
            lambda m, x: m.b(torch.cat([torch.zeros_like(x[:, :1, :2].expand(-1, 8, -1)), torch.tanh(m.a(x))], -1)),
        ),
        ("same padding", lambda m, x: _conv(m.b, m.a(x), "same"), lambda m, x: _conv(m.b, m.a(x), 1)),
    )
    for name, left, right in layered:
        layers: dict[str, Build] = {"a": lambda: nn.Conv1d(8, 8, 1), "b": lambda: nn.Conv1d(8, 4, 3)}
        yield free(name, left, right, layers, normal(2, 8, 9), normal(2, 8, 13, seed=1))


def _conv(layer: Any, h: Tensor, padding: int | str) -> Tensor:
    return F.conv1d(h, layer.weight, layer.bias, padding=padding)


def products() -> Iterator[Attack]:
    """Yield products, norms and tables."""
    tokens: Mapping[str, Build] = {"a": lambda: nn.Linear(8, 8), "b": lambda: nn.Linear(8, 8), "h": lambda: nn.Linear(8, 4)}
    rows: tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...] = (
        (
            "linear, einsum",
            lambda m, x: m.h(m.b(m.a(x).tanh())),
            lambda m, x: m.h(torch.einsum("bti,oi->bto", m.a(x).tanh(), m.b.weight) + m.b.bias),
        ),
        (
            "linear, matmul",
            lambda m, x: m.h(m.b(m.a(x).tanh())),
            lambda m, x: m.h(m.a(x).tanh() @ m.b.weight.t() + m.b.bias),
        ),
        (
            "scores, einsum",
            lambda m, x: m.h(m.a(x) @ m.b(x).mT @ x),
            lambda m, x: m.h(torch.einsum("bij,bjd->bid", torch.einsum("bid,bjd->bij", m.a(x), m.b(x)), x)),
        ),
        (
            "scores, bmm",
            lambda m, x: m.h(m.a(x) @ m.b(x).mT @ x),
            lambda m, x: m.h(torch.bmm(torch.bmm(m.a(x), m.b(x).transpose(1, 2)), x)),
        ),
        (
            "cosine, by hand",
            lambda m, x: m.h(x * F.cosine_similarity(m.a(x), m.b(x), -1)[..., None]),
            lambda m, x: m.h(
                x * (F.normalize(m.a(x), dim=-1, eps=1e-8) * F.normalize(m.b(x), dim=-1, eps=1e-8)).sum(-1, keepdim=True)
            ),
        ),
        (
            "group norm, by hand",
            lambda m, x: m.h(F.group_norm(m.a(x).mT, 2).mT),
            lambda m, x: m.h(_grouped(m.a(x).mT, 2).mT),
        ),
        (
            "instance norm, by hand",
            lambda m, x: m.h(F.instance_norm(m.a(x).mT).mT),
            lambda m, x: m.h(_centred(m.a(x), 1, 1e-5)),
        ),
        (
            "standardised weight, two ways",
            lambda m, x: m.h(F.linear(x, _centred(m.a.weight, 1, 1e-6), m.a.bias)),
            lambda m, x: m.h(F.linear(x, F.batch_norm(m.a.weight[None], None, None, training=True, eps=1e-6)[0], m.a.bias)),
        ),
        (
            "standardised weight, layer norm",
            lambda m, x: m.h(F.linear(x, _centred(m.a.weight, 1, 1e-6), m.a.bias)),
            lambda m, x: m.h(F.linear(x, F.layer_norm(m.a.weight, (8,), eps=1e-6), m.a.bias)),
        ),
        (
            "a branch that is dropped in training",
            lambda m, x: m.h(x + m.a(x)),
            lambda m, x: m.h(x + F.dropout(m.a(x), 0.3, training=False)),
        ),
        ("empty, filled", lambda m, x: m.h(m.a(x) + 2), lambda m, x: m.h(m.a(x) + torch.empty_like(x).fill_(2))),
        ("terms in another order", lambda m, x: m.h(m.a(x) + m.b(x) + x), lambda m, x: m.h(x + m.b(x) + m.a(x))),
    )
    for name, one, other in rows:
        yield free(name, one, other, tokens, normal(2, 5, 8), normal(3, 7, 8, seed=1))
    ids, more = (lambda: (numbers(20, 2, 6),)), (lambda: (numbers(20, 3, 7, seed=1),))
    table: dict[str, Build] = {"e": lambda: nn.Embedding(20, 8), "h": lambda: nn.Linear(8, 4)}
    looks: dict[str, Callable[..., Any]] = {
        "one_hot, matmul": lambda m, i: torch.matmul(F.one_hot(i, 20).to(m.e.weight), m.e.weight),
        "one_hot, linear": lambda m, i: F.linear(F.one_hot(i, 20).to(m.e.weight.dtype), m.e.weight.t()),
        "one_hot, einsum": lambda m, i: torch.einsum("btn,nd->btd", F.one_hot(i, 20).to(m.e.weight.dtype), m.e.weight),
        "comparison with arange": lambda m, i: (i[..., None] == torch.arange(20)).to(m.e.weight.dtype) @ m.e.weight,
        "gather": lambda m, i: m.e.weight.gather(0, i.reshape(-1, 1).expand(-1, 8)).unflatten(0, i.shape),
        "flattened": lambda m, i: m.e(i.flatten()).unflatten(0, i.shape),
    }
    for name, look in looks.items():
        yield free(f"embedding, {name}", lambda m, i: m.h(torch.tanh(m.e(i))),
                   lambda m, i, look=look: m.h(torch.tanh(look(m, i))), table, ids, more)  # fmt: skip


def _centred(h: Tensor, dim: int, eps: float) -> Tensor:
    return (h - h.mean(dim, keepdim=True)) / torch.sqrt(h.var(dim, keepdim=True, unbiased=False) + eps)


def _grouped(h: Tensor, groups: int) -> Tensor:
    return _centred(h.reshape(h.shape[0], groups, -1), 2, 1e-5).reshape(h.shape)
