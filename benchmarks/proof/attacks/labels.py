"""Keys that have no gradient, or whose change is not seen, and that matter: `inert` and `tied` would be false."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Build, Free, Net, normal, numbers
from benchmarks.proof.attacks.inputs import QKV, attention, holes


def attacks() -> Iterator[Attack]:
    """Yield one model against itself: what matters must not be called inert; then exchanges that are no symmetry."""
    for name, (function, keys) in _BLIND.items():
        build = _blind(function)
        yield Attack(name, build, build, normal(4, 8), normal(40, 8, scale=3, seed=1), moves=keys)
    for name, function in _SCALARS.items():
        build = _scalar(function)
        yield Attack(name, build, build, normal(4, 8), normal(40, 8, scale=3, seed=1), moves=("t",))
    yield from _masked_bias()
    for name, function in _LACKING.items():
        build = _on_inputs(function)
        probe = torch.randn(4, 8, dtype=torch.float64)
        probe[::2, 1] = torch.nan if name.endswith("no number") else torch.inf
        yield Attack(name, build, build, normal(4, 8), _always(probe), moves=("t",))
    yield from _exchanged()


_LAYERS: dict[str, Build] = {"a": lambda: nn.Linear(8, 5), "b": lambda: nn.Linear(8, 8), "c": lambda: nn.Linear(8, 5)}


def _blind(function: Callable[[Any, Any], Any]) -> Build:
    return lambda: Free(function, _LAYERS, book=nn.Parameter(torch.randn(5, 8)), edge=torch.zeros(3))


def _scalar(function: Callable[[Any, Tensor], Any]) -> Build:
    layers: dict[str, Build] = {"a": lambda: nn.Linear(8, 8), "b": lambda: nn.Linear(8, 5)}
    return lambda: Free(lambda m, x: function(m, m.a(x)), layers, t=nn.Parameter(torch.ones(1)))


# One number, of which the sign, or that it is large, is all that matters.
_SCALARS: dict[str, Callable[[Any, Tensor], Any]] = {
    "a scale before a unit norm": lambda m, y: m.b(F.normalize(y * m.t, dim=-1)),
    "a scale before a layer norm": lambda m, y: m.b(F.layer_norm(y * m.t, (8,), eps=0.0)),
    "a scale before an argmax": lambda m, y: (m.b(y) * m.t).argmax(-1),
    "a scale before a sign": lambda m, y: m.b(torch.tanh(y) * torch.sign(y * m.t)),
    "a scale before a topk": lambda m, y: y.gather(-1, (y * m.t).topk(3, -1)[1]),
    "a scale before a gate": lambda m, y: m.b(y * (y * m.t > 0)),
    "a scale that the largest takes away": lambda m, y: m.b((y * m.t) / (y * m.t).abs().amax(-1, keepdim=True)),
    "a number below a step": lambda m, y: m.b(y + F.relu(m.t.abs() - 6)),
    "a number that is rounded": lambda m, y: m.b(y + torch.round(m.t / 8)),
    "an exponent before a unit norm": lambda m, y: m.b(F.normalize(y * (30 * m.t).exp(), dim=-1)),
}


# What is put in the place of numbers that are missing.
_LACKING: dict[str, Callable[[Any, Tensor], Any]] = {
    "in the place of what is no number": lambda m, x: m.b(torch.where(x.isnan(), m.t, x.nan_to_num())),
    "in the place of what is infinite": lambda m, x: m.b(torch.where(x.isinf(), m.t, x.clamp(-9, 9))),
}


def _on_inputs(function: Callable[[Any, Tensor], Any]) -> Build:
    return lambda: Free(function, {"b": lambda: nn.Linear(8, 5)}, t=nn.Parameter(torch.ones(1)))


def _always(probe: Tensor) -> Callable[[], tuple[Tensor]]:
    return lambda: (probe,)


def _quantised(m: Any, x: Tensor) -> Tensor:
    z = m.b(x)
    code = m.book[torch.cdist(z, m.book).argmin(-1)]
    result: Tensor = z + (code - z).detach()
    return result


_A, _B = ("a.weight", "a.bias"), ("b.weight", "b.bias")

_BLIND: dict[str, tuple[Callable[[Any, Any], Any], tuple[str, ...]]] = {
    "classifier of labels": (lambda m, x: m.a(x).argmax(-1), _A),
    "router of the best expert": (lambda m, x: m.b(x)[..., :5] * F.one_hot(m.a(x).argmax(-1), 5), _A),
    "the best three": (lambda m, x: m.b(x)[..., :5].gather(-1, m.a(x).topk(3)[1]), _A),
    "order of sorting": (lambda m, x: m.b(x)[..., :5].gather(-1, m.a(x).argsort(-1)), _A),
    "a quantiser that passes gradients": (_quantised, ("book", *_B)),
    "a codebook's index": (lambda m, x: torch.cdist(m.b(x), m.book).argmin(-1), ("book", *_B)),
    "detached": (lambda m, x: m.b(x) + m.c(x).detach().sum(-1, keepdim=True), ("c.weight", "c.bias")),
    "rounded": (lambda m, x: m.b(x)[..., :5] * torch.round(m.a(x)), _A),
    "floor": (lambda m, x: m.b(x)[..., :5] + torch.floor(m.a(x)), _A),
    "sign": (lambda m, x: m.b(x)[..., :5] * torch.sign(m.a(x)), _A),
    "a gate of 0 and 1": (lambda m, x: m.b(x)[..., :5] * (m.a(x) > 0), _A),
    "a dead relu": (lambda m, x: m.b(x)[..., :5] + F.relu(m.a(x) - 4), _A),
    "an edge of buckets": (lambda m, x: m.b(x) + torch.bucketize(m.b(x).detach(), m.edge.sort()[0]), ("edge",)),
    "a number of integers": (lambda m, x: m.b(x) + m.a(x).to(torch.int64).sum(-1, keepdim=True), _A),
    "without gradient": (lambda m, x: m.b(x) + _without_gradient(m, x), ("c.weight", "c.bias")),
}


def _without_gradient(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = m.c(x).sum(-1, keepdim=True)
    return result


def _masked_bias() -> Iterator[Attack]:
    """Biases of keys are inert behind a softmax, unless a mask is multiplied, or a token has no key."""
    ids = numbers(20, 2, 6)
    for name, change in (
        ("a key's bias under a mask that is multiplied", lambda w, mask: w * mask[:, None]),
        ("a key's bias under a cap", lambda w, mask: 30 * torch.tanh(w / 30) * mask[:, None]),
        ("a key's bias beside a sink", lambda w, mask: torch.cat([w, torch.zeros_like(w[..., :1]) - 20], -1)[..., :-1]
         .masked_fill(mask[:, None] == 0, 0.0)),
    ):  # fmt: skip
        build = lambda change=change: Free(lambda m, i, k: attention(m, i, lambda w: change(w, k)), QKV)  # noqa: E731
        yield Attack(name, build, build, lambda: (ids, torch.ones_like(ids)), lambda: (ids, holes(2, 6)), moves=("k.bias",))


def _experts() -> Free:
    layers: dict[str, Build] = {name: lambda: nn.Linear(8, 8) for name in "abc"}
    return Free(lambda m, x, e: torch.stack([m.a(x), m.b(x), m.c(x)])[e, torch.arange(len(x))], layers)


def _swap(names: tuple[str, ...], one: str, other: str) -> dict[str, str]:
    pairs = {f"{a}.{end}": f"{b}.{end}" for a, b in ((one, other), (other, one)) for end in ("weight", "bias")}
    return {f"{name}.{end}": f"{name}.{end}" for name in names for end in ("weight", "bias")} | pairs


def _exchanged() -> Iterator[Attack]:
    """Two branches of one shape that are exchanged, where the network is symmetric on small inputs alone."""
    layers: dict[str, Build] = {"a": lambda: nn.Linear(8, 8), "b": lambda: nn.Linear(8, 8)}
    wrong = ("a.weight", "b.weight")
    for name, function in (
        ("branches exchanged, one of them clamped", lambda m, x: m.a(x).clamp(-50, 50) + m.b(x)),
        ("branches exchanged, with other slopes far out", lambda m, x: F.softplus(m.a(x) - 60) + m.a(x) + m.b(x)),
        ("branches exchanged, one of them rounded far out", lambda m, x: m.a(x) + m.b(x) + (m.b(x) / 1000).to(torch.int64)),
        ("branches exchanged, chosen by a threshold", lambda m, x: torch.where(m.a(x) > 60, m.a(x) * 2, m.a(x) + m.b(x))),
    ):
        build = lambda function=function: Free(function, layers)  # noqa: E731
        yield Attack(name, build, build, normal(2, 8), normal(20, 8, scale=1000, seed=1), keys=_swap(("a", "b"), "a", "b"),
                     wrong=wrong)  # fmt: skip
    for name, one, other in (
        ("experts exchanged, chosen by an integer input", 0, 1),
        ("experts exchanged, the last one never chosen", 1, 2),
    ):
        names = ("a", "b", "c")
        yield Attack(name, _experts, _experts, lambda: (torch.randn(2, 8), torch.zeros(2, dtype=torch.long)),
                     lambda: (torch.randn(3, 8), torch.arange(3)), keys=_swap(names, names[one], names[other]),
                     wrong=(f"{names[one]}.weight", f"{names[other]}.weight"))  # fmt: skip
    keys = {key: key for key in ("a.weight", "a.bias", "h.weight", "h.bias")} | {"p": "q", "q": "p"}
    yield Attack("a gain exchanged with what has no effect", _gated, _gated, normal(2, 8), normal(3, 8, seed=1), keys=keys,
                 wrong=("p",))  # fmt: skip


def _gated() -> Net:
    return Net(lambda h, m: h * (m.p + 1) * (m.q > -99).to(h) + 0 * m.q, p=torch.zeros(8), q=torch.zeros(8))
