"""Pairs that a careful human accepts as equal, spelled differently: how many of them are proven."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks import exchanged, merged, spellings
from benchmarks.proof.attacks.attack import Attack, Build, Conv, Free, Function, conv, free, net, normal, numbers
from benchmarks.proof.attacks.families import themselves
from benchmarks.proof.attacks.inputs import QKV, attending, attention, holes, masking, sdpa
from benchmarks.proof.attacks.recorded import both_ways

_TINY: dict[str, Build] = {"a": lambda: nn.Linear(8, 8), "h": lambda: nn.Linear(8, 4)}


def activations() -> Iterator[Attack]:
    """Yield activations spelled out."""
    for name, one, other in _functions(
        ("relu, clamp(min=0)", F.relu, lambda h: h.clamp(min=0)),
        ("relu, clamp_min", F.relu, lambda h: h.clamp_min(0.0)),
        ("relu, maximum with 0", F.relu, lambda h: torch.maximum(h, _zero(h))),
        ("relu, where", F.relu, lambda h: torch.where(h > 0, h, _zero(h))),
        ("relu, h times (h > 0)", F.relu, lambda h: h * (h > 0)),
        ("relu6, clamp(0, 6)", F.relu6, lambda h: h.clamp(0, 6)),
        ("relu6, the smaller of relu and 6", F.relu6, lambda h: F.relu(h).clamp(max=6)),
        ("hardtanh, clamp", F.hardtanh, lambda h: h.clamp(-1, 1)),
        ("hardsigmoid out of relu6", F.hardsigmoid, lambda h: F.relu6(h + 3) / 6),
        ("hardsigmoid out of clamp", F.hardsigmoid, lambda h: (h / 6 + 0.5).clamp(0, 1)),
        ("hardswish out of relu6", F.hardswish, lambda h: h * F.relu6(h + 3) / 6),
        ("hardswish out of hardsigmoid", F.hardswish, lambda h: h * F.hardsigmoid(h)),
        ("hardswish out of clamp", F.hardswish, lambda h: h * (h + 3).clamp(0, 6) / 6),
        ("leaky relu, where", lambda h: F.leaky_relu(h, 0.1), lambda h: torch.where(h > 0, h, h * 0.1)),
        ("leaky relu, the larger of two", lambda h: F.leaky_relu(h, 0.1), lambda h: torch.maximum(h, h * 0.1)),
        ("silu, h times sigmoid", F.silu, lambda h: h * torch.sigmoid(h)),
        ("gelu of tanh, spelled out", lambda h: F.gelu(h, approximate="tanh"),
         lambda h: 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))),
        ("gelu, spelled out", F.gelu, lambda h: h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))),
        ("elu, where", F.elu, lambda h: torch.where(h > 0, h, torch.expm1(h.clamp(max=0)))),
        ("mish, spelled out", F.mish, lambda h: h * torch.tanh(F.softplus(h))),
        ("square of relu", lambda h: F.relu(h) ** 2, lambda h: F.relu(h) * F.relu(h)),
        ("absolute value, two relus", torch.abs, lambda h: F.relu(h) + F.relu(-h)),
        ("softmax with more arguments", lambda h: h.softmax(-1), lambda h: F.softmax(h, dim=-1, _stacklevel=3)),
        ("softmax, spelled out", lambda h: h.softmax(-1), _softmax),
        ("logarithm of the softmax", lambda h: F.log_softmax(h, -1), lambda h: h - torch.logsumexp(h, -1, keepdim=True)),
    ):  # fmt: skip
        yield net(name, one, other, shape=(9, 8), scale=4)
    halves = lambda h: h.chunk(2, -1)[0] * torch.sigmoid(h.chunk(2, -1)[1])  # noqa: E731 -- what the name says
    yield Attack("glu, by halves", lambda: _halved(F.glu), lambda: _halved(halves), normal(2, 8), normal(9, 8, seed=1))


def _zero(h: Tensor) -> Tensor:
    return torch.zeros((), dtype=h.dtype)


def _softmax(h: Tensor) -> Tensor:
    powers = (h - h.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


def _halved(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return Free(lambda m, x: m.h(function(m.a(x))), {"a": lambda: nn.Linear(8, 16), "h": lambda: nn.Linear(8, 4)})


def _functions(*rows: tuple[str, Callable[[Any], Any], Callable[[Any], Any]]) -> Iterator[tuple[str, Function, Function]]:
    for name, one, other in rows:
        yield name, lambda h, _, one=one: one(h), lambda h, _, other=other: other(h)  # type: ignore[misc]


def masks() -> Iterator[Attack]:
    """Yield masks and attention written another way."""
    ids = numbers(20, 2, 6)
    low = -1e9
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "masked_fill of m == 0": lambda w, m: w.masked_fill((m == 0)[:, None], low),
        "masked_fill of ~m": lambda w, m: w.masked_fill(~m.bool()[:, None], low),
        "where": lambda w, m: torch.where(m.bool()[:, None], w, low),
        "where of m == 0": lambda w, m: torch.where((m == 0)[:, None], low, w),
        "masked_fill of m < 1": lambda w, m: w.masked_fill((m < 1)[:, None], low),
        "masked_fill of logical_not": lambda w, m: w.masked_fill(torch.logical_not(m)[:, None], low),
    }
    first = next(iter(ways))
    for name in list(ways)[1:]:
        yield Attack(f"{first}, {name}", masking(ways[first]), masking(ways[name]), lambda: (ids, torch.ones_like(ids)),
                     lambda: (ids, holes(2, 6)))  # fmt: skip
    fills: dict[str, Callable[[Tensor], Tensor]] = {
        "masked_fill of triu": lambda w: w.masked_fill(torch.ones(w.shape[-2:]).triu(1).bool(), -math.inf),
        "masked_fill of tril == 0": lambda w: w.masked_fill(torch.ones(w.shape[-2:]).tril() == 0, -math.inf),
        "masked_fill of ~tril": lambda w: w.masked_fill(~torch.ones(w.shape[-2:], dtype=torch.bool).tril(), -math.inf),
        "added triu of minus infinity": lambda w: w + torch.full(w.shape[-2:], -math.inf, dtype=w.dtype).triu(1),
        "where of arange": lambda w: torch.where(
            torch.arange(w.shape[-1])[:, None] >= torch.arange(w.shape[-1]), w, -math.inf
        ),
        "masked_fill of -1e9": lambda w: w.masked_fill(torch.ones(w.shape[-2:]).triu(1).bool(), -1e9),
    }
    usual = next(iter(fills))
    for name in list(fills)[1:]:
        yield Attack(f"causal: {usual}, {name}", attending(fills[usual]), attending(fills[name]), lambda: (ids,),
                     lambda: (numbers(20, 2, 9, seed=1),))  # fmt: skip
    yield from _sdpa(ids)


def _sdpa(ids: Tensor) -> Iterator[Attack]:
    more = lambda: (numbers(20, 2, 9, seed=1),)  # noqa: E731 -- used thrice
    yield Attack("sdpa, explicit", lambda: Free(lambda m, i: attention(m, i, lambda w: w), QKV),
                 lambda: Free(sdpa, QKV), lambda: (ids,), more)  # fmt: skip
    causal = lambda w: w.masked_fill(torch.ones(w.shape[-2:]).triu(1).bool(), -math.inf)  # noqa: E731
    yield Attack("causal: sdpa, explicit", lambda: Free(lambda m, i: sdpa(m, i, is_causal=True), QKV),
                 lambda: Free(lambda m, i: attention(m, i, causal), QKV), lambda: (ids,), more)  # fmt: skip
    yield Attack("a mask: sdpa of bools, explicit",
                 lambda: Free(lambda m, i, k: sdpa(m, i, attn_mask=k.bool()[:, None, None]), QKV),
                 lambda: Free(lambda m, i, k: attention(m, i, lambda w: w.masked_fill((k == 0)[:, None], -math.inf)), QKV),
                 lambda: (ids, torch.ones_like(ids)), lambda: (ids, holes(2, 6)))  # fmt: skip
    yield Attack("scale of the scores, scale of the query", lambda: Free(lambda m, i: attention(m, i, lambda w: w), QKV),
                 lambda: Free(_early, QKV), lambda: (ids,), more)  # fmt: skip


def _early(m: Any, ids: Tensor) -> Any:
    x = m.e(ids)
    return torch.einsum("bij,bjd->bid", torch.einsum("bid,bjd->bij", m.q(x) * 8**-0.5, m.k(x)).softmax(-1), m.v(x))


def pools() -> Iterator[Attack]:
    """Yield pools, pads and resizing written another way."""
    for name, one, other in _functions(
        ("mean, pool to 1", lambda h: h.mean((2, 3), keepdim=True), lambda h: F.adaptive_avg_pool2d(h, 1)),
        ("largest, pool to 1", lambda h: h.amax((2, 3), keepdim=True), lambda h: F.adaptive_max_pool2d(h, 1)),
        ("max(dim)[0], amax", lambda h: h.max(2, keepdim=True)[0], lambda h: h.amax(2, keepdim=True)),
        ("flattened mean", lambda h: h.flatten(2).mean(2)[..., None, None], lambda h: h.mean((3, 2), keepdim=True)),
        ("nearest, repeated", lambda h: F.interpolate(h, scale_factor=2),
         lambda h: h.repeat_interleave(2, 2).repeat_interleave(2, 3)),
        ("padded before the pool", lambda h: F.max_pool2d(h, 3, 2, 1),
         lambda h: F.max_pool2d(F.pad(h, (1, 1, 1, 1), value=-math.inf), 3, 2)),
        ("pad, cat of zeros", lambda h: F.pad(h, (1, 0)), lambda h: torch.cat([torch.zeros_like(h[..., :1]), h], -1)),
        ("pad, written into empty", lambda h: F.pad(h, (1, 0)), _written),
        ("pad, written into empty_like", lambda h: h * 2, _emptied),
        ("constant_pad_nd, pad", lambda h: F.pad(h, (1, 1, 1, 1)), lambda h: torch.constant_pad_nd(h, (1, 1, 1, 1), 0.0)),
        ("roll, cat", lambda h: h.roll(1, -1), lambda h: torch.cat([h[..., -1:], h[..., :-1]], -1)),
        ("squeeze and excite, by expand", lambda h: h * h.mean((2, 3), keepdim=True).sigmoid(),
         lambda h: h * h.mean((2, 3))[:, :, None, None].expand_as(h).sigmoid()),
    ):  # fmt: skip
        yield conv(name, one, other, example=(1, 3, 16, 16), probe=(2, 3, 20, 16), scale=3)
    yield Attack(
        "a pool as large as the map, mean",
        lambda: _pooled(lambda h: F.avg_pool2d(h, 8)),
        lambda: _pooled(lambda h: h.mean((2, 3), keepdim=True)),
        normal(2, 3, 8, 8),
        normal(2, 3, 8, 8, seed=1),
    )
    yield Attack(
        "a pool as large as the map, pool to 1",
        lambda: _pooled(lambda h: F.avg_pool2d(h, 8, 1)),
        lambda: _pooled(lambda h: F.adaptive_avg_pool2d(h, 1)),
        normal(2, 3, 8, 8),
        normal(2, 3, 8, 8, seed=1),
    )


def _pooled(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return Conv(lambda h, _: F.relu(function(h)))


def _written(h: Tensor) -> Tensor:
    padded = torch.zeros(*h.shape[:3], h.shape[3] + 1, dtype=h.dtype)
    padded[..., 1:] = h
    return padded


def _emptied(h: Tensor) -> Tensor:
    empty = torch.empty_like(h)
    empty.copy_(h * 2)
    return empty


def layers() -> Iterator[Attack]:
    """Yield layers and tables written another way."""
    head: dict[str, Build] = {"h": lambda: nn.Conv2d(8, 4, 1)}
    yield Attack("a linear layer, a 1x1 convolution",
                 lambda: Free(lambda m, x: m.h(F.gelu(m.a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))),
                              {"a": lambda: nn.Linear(8, 8), **head}),
                 lambda: Free(lambda m, x: m.h(F.gelu(m.a(x))), {"a": lambda: nn.Conv2d(8, 8, 1), **head}),
                 normal(2, 8, 5, 5), normal(2, 8, 7, 5, seed=1))  # fmt: skip
    ids, more = (lambda: (numbers(20, 2, 6),)), (lambda: (numbers(20, 3, 7, seed=1),))
    table: dict[str, Build] = {"e": lambda: nn.Embedding(20, 8), "h": lambda: nn.Linear(8, 4)}
    for name, look in (
        ("one_hot @ w", lambda m, i: F.one_hot(i, 20).float() @ m.e.weight),
        ("one_hot in the weights' type", lambda m, i: F.one_hot(i, 20).to(m.e.weight.dtype) @ m.e.weight),
        ("index", lambda m, i: m.e.weight[i]),
        ("index_select", lambda m, i: m.e.weight.index_select(0, i.flatten()).unflatten(0, i.shape)),
    ):
        yield free(f"embedding, {name}", lambda m, i: m.h(torch.tanh(m.e(i))),
                   lambda m, i, look=look: m.h(torch.tanh(look(m, i))), table, ids, more)  # fmt: skip
    norm: dict[str, Build] = {**_TINY, "n": lambda: nn.LayerNorm(8)}
    for name, spelled in (
        ("mean and var", lambda m, h: _layer_norm(m, h, h.var(-1, unbiased=False, keepdim=True))),
        ("mean of squares", lambda m, h: _layer_norm(m, h, (h - h.mean(-1, keepdim=True)).pow(2).mean(-1, keepdim=True))),
        ("F.layer_norm", lambda m, h: F.layer_norm(h, (8,), m.n.weight, m.n.bias, m.n.eps)),
        (
            "in float32",
            lambda m, h: F.layer_norm(h.float(), (8,), m.n.weight.float(), m.n.bias.float(), m.n.eps).to(h.dtype),
        ),
    ):
        yield free(
            f"layer norm, {name}",
            lambda m, x: m.h(m.n(m.a(x))),
            lambda m, x, spelled=spelled: m.h(spelled(m, m.a(x))),
            norm,
            normal(2, 8),
            normal(5, 8, seed=1),
        )
    yield free("rms norm, spelled out", lambda m, x: m.h(m.r(m.a(x))), _rms, _TINY | {"r": lambda: nn.RMSNorm(8, 1e-6)},
               normal(2, 8), normal(5, 8, seed=1))  # fmt: skip
    yield from _tables()


def _layer_norm(m: Any, h: Tensor, variance: Tensor) -> Any:
    return (h - h.mean(-1, keepdim=True)) * torch.rsqrt(variance + m.n.eps) * m.n.weight + m.n.bias


def _rms(m: Any, x: Tensor) -> Any:
    h = m.a(x)
    return m.h(h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6) * m.r.weight)


def _sinus(t: Tensor, dtype: torch.dtype, power: bool) -> Tensor:
    steps = torch.arange(4, dtype=torch.float32)
    rates = 1e4 ** (-steps / 4) if power else torch.exp(-math.log(1e4) * steps / 4)
    angles = t[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], -1).to(dtype)


def _timed(power: bool) -> Callable[..., Any]:
    return lambda m, x, t: m.h(m.a(x) + _sinus(t, x.dtype, power))


def _tables() -> Iterator[Attack]:
    yield free(
        "timesteps by a power, by an exponential, in float32",
        _timed(True),
        _timed(False),
        _TINY,
        lambda: (torch.randn(2, 8), torch.tensor([3, 40])),
        lambda: (torch.randn(3, 8), torch.tensor([0, 7, 900])),
    )
    yield free("positions by arange, by a buffer", lambda m, x: m.h(m.a(x) + m.p(torch.arange(x.shape[1]))),
               lambda m, x: m.h(m.a(x) + m.p.weight[: x.shape[1]]), _TINY | {"p": lambda: nn.Embedding(16, 8)},
               normal(2, 16, 8), normal(2, 9, 8, seed=1))  # fmt: skip
    yield free("positions beyond the example that are not read", lambda m, x: m.h(m.a(x) + m.p.weight[: x.shape[1]]),
               lambda m, x: m.h(m.p.weight[: x.shape[1]] + m.a(x)), _TINY | {"p": lambda: nn.Embedding(16, 8)},
               normal(2, 9, 8), normal(2, 12, 8, seed=1))  # fmt: skip
    yield free("two examples that are equal", lambda m, x, y: m.h(m.a(x) * torch.tanh(m.a(y))),
               lambda m, x, y: m.h(torch.tanh(m.a(y)) * m.a(x)), _TINY, lambda: normal(2, 8)() * 2,
               lambda: normal(3, 8)() + normal(3, 8, seed=1)())  # fmt: skip
    yield Attack("two towers, whose names tell them apart", _towers("text"), _towers("image"), normal(2, 8), normal(3, 8))
    yield Attack("names of halves in another order", lambda: Free(_halves(0), {"a": lambda: nn.Linear(8, 8)}),
                 lambda: Free(_halves(1), {"a": lambda: nn.Linear(8, 8)}), normal(2, 8), normal(3, 8, seed=1))  # fmt: skip


def _halves(swap: int) -> Callable[..., Any]:
    def forward(m: Any, x: Any) -> dict[str, Any]:
        parts = m.a(x).chunk(2, -1)
        return {"scale": parts[swap], "shift": parts[1 - swap]}

    return forward


def _towers(first: str) -> Build:
    other = {"text": "image", "image": "text"}[first]
    layers: dict[str, Build] = {"a": lambda: nn.Linear(8, 4), "b": lambda: nn.Linear(8, 4)}
    return lambda: Free(lambda m, x: {first: m.a(x), other: m.b(x)}, layers)


def parts() -> Iterator[Attack]:
    """Yield destinations that are a part of the source: right, if they say that they are a part."""
    stem: dict[str, Build] = {"a": lambda: nn.Linear(8, 8), "n": lambda: nn.LayerNorm(8)}
    whole = stem | {"h": lambda: nn.Linear(8, 4)}
    middle: Callable[[Any, Any], Any] = lambda m, x: m.n(torch.tanh(m.a(x)))  # noqa: E731 -- the part itself
    for name, src, dst, kept in (
        ("without its head", lambda m, x: m.h(middle(m, x)), middle, stem),
        ("without its head and norm", lambda m, x: m.h(middle(m, x)), lambda m, x: torch.tanh(m.a(x)), {"a": stem["a"]}),
        ("fewer outputs", lambda m, x: {"features": middle(m, x), "logits": m.h(middle(m, x))},
         lambda m, x: {"features": middle(m, x)}, stem),
        ("the last output alone", lambda m, x: {"features": middle(m, x), "logits": m.h(middle(m, x))},
         lambda m, x: {"logits": m.h(middle(m, x))}, whole),
        ("the mean of the middle", lambda m, x: m.h(middle(m, x).mean(1)), lambda m, x: middle(m, x).mean(1), stem),
    ):  # fmt: skip
        yield Attack(name, _build(src, whole), _build(dst, kept), normal(2, 6, 8), normal(2, 9, 8, seed=1),
                     computes=_computed(dst))  # fmt: skip


def _build(function: Callable[..., Any], layers: Mapping[str, Build]) -> Build:
    return lambda: Free(function, layers)


def _computed(dst: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda model, inputs: dst(model, *inputs)


EQUAL: dict[str, Callable[[], Iterator[Attack]]] = {
    "equal: activations": lambda: both_ways(activations()),
    "equal: masks and attention": lambda: both_ways(masks()),
    "equal: pools, pads, sizes": lambda: both_ways(pools()),
    "equal: layers and tables": lambda: both_ways(layers()),
    "equal: parts of the source": lambda: both_ways(parts()),
    "equal: roles of layers": lambda: both_ways(chain(merged.attacks(), exchanged.attacks())),
    "equal: pieces in other words": lambda: both_ways(spellings.pieces()),
    "equal: masks in other words": lambda: both_ways(spellings.masks()),
    "equal: windows in other words": lambda: both_ways(spellings.windows()),
    "equal: products in other words": lambda: both_ways(spellings.products()),
    "equal: real models": themselves,
}
