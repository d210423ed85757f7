"""Operations that are not analytic everywhere, and differences that are below every tolerance at unit scale."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Function, free, net, normal


def attacks() -> Iterator[Attack]:
    """Yield functions that are identities on a region; steps that are 0 near 0; gates that are far away."""
    for name, function in _IDENTITIES.items():
        yield net(name, lambda h, _: h, function, scale=300, shape=(20, 8))
    for name, function in _STEPS.items():
        yield net(name, lambda h, _: h, function, scale=1e4, shape=(20, 8))
    for name, function in _FAR.items():
        yield net(name, lambda h, _: h, function, scale=200, shape=(20, 8))
    for name, (one, other) in _TINY.items():
        layers = {"a": lambda: nn.Linear(8, 8, bias=False)}
        yield free(name, lambda m, x, one=one: one(m.a(x)), lambda m, x, other=other: other(m.a(x)), layers, normal(2, 8),
                   normal(3, 8, scale=1e-9, seed=1))  # fmt: skip


def _both(h: Tensor) -> Tensor:
    return torch.stack([h + 100, torch.zeros_like(h)])


_IDENTITIES: dict[str, Function] = {
    "square root of a square": lambda h, _: ((h + 100) ** 2).sqrt() - 100,
    "hypot with 0": lambda h, _: torch.hypot(h + 100, torch.zeros_like(h)) - 100,
    "deviation of two": lambda h, _: _both(h).std(0) * 2**0.5 - 100,
    "variance of two, rooted": lambda h, _: _both(h).var(0, unbiased=False).sqrt() * 2 - 100,
    "norm of one number": lambda h, _: torch.linalg.vector_norm((h + 100)[..., None], dim=-1) - 100,
    "norm of order 1 of one number": lambda h, _: torch.linalg.vector_norm((h + 100)[..., None], 1, dim=-1) - 100,
    "norm of order 4 of one number": lambda h, _: (
        ((h + 100) ** 4).sum(0, keepdim=True).pow(0.25) * 0 + (((h + 100) ** 4) ** 0.25 - 100)
    ),
    "absolute value of a shifted number": lambda h, _: (h + 100).abs() - 100,
    "power of a power": lambda h, _: ((h + 100) ** 2) ** 0.5 - 100,
    "logarithm of a square": lambda h, _: (torch.log((h / 100 + 1) ** 2) / 2).exp() * 100 - 100,
    "arc sine of the sine": lambda h, _: torch.asin(torch.sin(h / 10)) * 10,
    "arc tangent of the tangent": lambda h, _: torch.atan(torch.tan(h / 10)) * 10,
    "angle of sine and cosine": lambda h, _: torch.atan2(torch.sin(h / 10), torch.cos(h / 10)) * 10,
    "logit of sigmoid with eps": lambda h, _: torch.logit(torch.sigmoid(h / 10), eps=1e-4) * 10,
    "softplus with a threshold": lambda h, _: (
        h - F.softplus(h) + F.softplus(h, threshold=60) + 0 * h.clamp(max=50) + F.relu(h - 80)
    ),
    "softsign of large numbers": lambda h, _: h + F.softsign(h + 100) - (h + 100) / (101 + h),
    "square root of a product": lambda h, _: ((h + 100) * (h + 100)).sqrt() - 100,
    "inverse of reciprocal, rooted": lambda h, _: (1 / ((h + 100) ** -2)).sqrt() - 100,
    "larger half of the sum and difference": lambda h, _: (h + 100 + (h + 100).abs()) / 2 - 100,
    "largest by logsumexp": lambda h, _: torch.logsumexp(torch.stack([h, -h - 400]), 0),
    "sign of a shifted number": lambda h, _: h * torch.sign(h + 100),
    "copysign": lambda h, _: torch.copysign(h + 100, torch.ones_like(h)) - 100,
    "soft shrink of a shifted number": lambda h, _: F.softshrink(h + 100, 20) - 80,
    "ELU of a shifted number": lambda h, _: F.elu(h + 100) - 100,
    "CELU of a shifted number": lambda h, _: F.celu(h + 100) - 100,
    "tanhshrink and hard shrink": lambda h, _: F.hardshrink(h + 100, 5) - 100,
}

_STEPS: dict[str, Function] = {
    "to(int64)": lambda h, _: h + (h / 1000).to(torch.int64),
    "int() and back": lambda h, _: h + (h / 1000).int().to(h.dtype),
    "round": lambda h, _: h + torch.round(h / 1000),
    "floor": lambda h, _: h + torch.floor(h / 1000 + 0.5),
    "ceil": lambda h, _: h + torch.ceil(h / 1000 - 0.5),
    "trunc": lambda h, _: h + torch.trunc(h / 1000),
    "remainder": lambda h, _: torch.remainder(h + 1000, 2000) - 1000,
    "fmod": lambda h, _: torch.fmod(h, 1000),
    "floor division": lambda h, _: h + (h + 500) // 1000,
    "fractional part": lambda h, _: (h / 1000 + 0.5 - torch.frac(h / 1000 + 0.5)) * 2 + h,
    "heaviside": lambda h, _: h + torch.heaviside(h - 1000, torch.ones_like(h)),
    "a comparison as a number": lambda h, _: h + (h > 1000).to(h.dtype),
    "to bool": lambda h, _: h * (h / 1000 + 3).to(torch.int64).to(torch.bool),
    "to(int8) wraps": lambda h, _: h + ((h / 10 + 64).to(torch.int64) // 128),
}

_FAR: dict[str, Function] = {
    "a gate at 60": lambda h, _: h * torch.sigmoid(-20 * (h - 60)),
    "an exponential at 60": lambda h, _: h + torch.exp((h - 60).clamp(max=5)),
    "an exponential that has no bound": lambda h, _: h + torch.exp(h / 4 - 30),
    "a power of 9": lambda h, _: h + 1e-22 * h**9,
    "a bell at 50": lambda h, _: h * (1 - torch.exp(-((h - 50) ** 2) / 50)),
    "a softmax with a far competitor": lambda h, _: h * torch.stack([h * 0, h - 70]).softmax(0)[0],
    "tanh of a far bend": lambda h, _: h + 1 + torch.tanh(h - 60),
    "softplus of a far bend": lambda h, _: h + F.softplus(h - 60),
    "gelu of a far bend": lambda h, _: h + F.gelu(h - 60),
    "erf of a far bend": lambda h, _: h * (1 - torch.erf(h - 60)) / 2,
}


def _length(h: Tensor) -> Any:
    return h.norm(dim=-1, keepdim=True)


def _square(h: Tensor) -> Any:
    return h.square().mean(-1, keepdim=True)


_TINY: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "an eps of 1e-10 beside a norm": (lambda h: h / _length(h), lambda h: h / (_length(h) + 1e-10)),
    "normalize with another eps": (lambda h: F.normalize(h, dim=-1), lambda h: F.normalize(h, dim=-1, eps=1e-6)),
    "an eps of 1e-18 under a root": (lambda h: h * _square(h).rsqrt(), lambda h: h * (_square(h) + 1e-18).rsqrt()),
    "a clamp of 1e-8 beside a norm": (lambda h: h / _length(h), lambda h: h / _length(h).clamp(min=1e-8)),
    "an eps of 1e-11 below an absolute value": (
        lambda h: h / h.abs().mean(-1, keepdim=True),
        lambda h: h / (h.abs().mean(-1, keepdim=True) + 1e-11),
    ),
}
