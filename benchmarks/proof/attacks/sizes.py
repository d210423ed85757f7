"""Sizes and lengths: what agrees on a multiple of 8, or on a short sequence, and differs beyond."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Build, Free, conv, free, net, normal, numbers
from benchmarks.proof.attacks.inputs import QKV, attention


def attacks() -> Iterator[Attack]:
    """Yield images, sequences of floats, sequences of tokens."""
    for attack in chain(_images(), _steps(), _channels_first(), _tokens()):
        yield replace(attack, names=("size", "length"))


def _patches(m: Any, x: Tensor, pad: bool) -> Tensor:
    if pad:
        x = F.pad(x, (0, -x.shape[3] % 8, 0, -x.shape[2] % 8))
    result: Tensor = m.h(F.gelu(m.p(x)).mean((2, 3)))
    return result


def _patched() -> dict[str, Callable[[], nn.Module]]:
    return {"p": lambda: nn.Conv2d(3, 16, 8, 8), "h": lambda: nn.Linear(16, 4)}


def _same(h: Tensor, size: int = 3, step: int = 2) -> Tensor:
    """Pad as TensorFlow does: what is odd goes to the right."""
    pads = [max((math.ceil(n / step) - 1) * step + size - n, 0) for n in (h.shape[3], h.shape[2])]
    return F.pad(h, (pads[0] // 2, pads[0] - pads[0] // 2, pads[1] // 2, pads[1] - pads[1] // 2))


def _images() -> Iterator[Attack]:
    yield free("patches: padded or cut", lambda m, x: _patches(m, x, False), lambda m, x: _patches(m, x, True), _patched(),
               normal(1, 3, 64, 64), normal(1, 3, 70, 70, seed=1))  # fmt: skip
    yield conv("pool: ceil or floor", lambda h, _: F.max_pool2d(h, 2, 2), lambda h, _: F.max_pool2d(h, 2, 2, ceil_mode=True))
    yield conv("padding as in TensorFlow", lambda h, _: F.avg_pool2d(F.pad(h, (0, 1, 0, 1)), 3, 2),
               lambda h, _: F.avg_pool2d(_same(h), 3, 2))  # fmt: skip
    yield conv("pool to 8 by 8, or by 8 and 8", lambda h, _: F.adaptive_avg_pool2d(h, 8),
               lambda h, _: F.avg_pool2d(h, h.shape[-1] // 8)[..., :8, :8], probe=(1, 3, 70, 70))  # fmt: skip
    yield conv(
        "resized to a size or by a factor",
        lambda h, _: F.interpolate(F.max_pool2d(h, 2), size=h.shape[2:]),
        lambda h, _: F.pad(F.interpolate(F.max_pool2d(h, 2), scale_factor=2), (0, h.shape[3] % 2, 0, h.shape[2] % 2)),
    )
    yield conv("centre that is cut out", lambda h, _: h, lambda h, _: h * _centre(h, 66), example=(1, 3, 64, 64),
               probe=(1, 3, 80, 80))  # fmt: skip
    yield conv("every second row, from the other end", lambda h, _: h[:, :, 1::2], lambda h, _: h.flip(2)[:, :, ::2].flip(2))
    yield conv("windows of 8, the rest left out", lambda h, _: _windows(h, torch.relu), lambda h, _: torch.relu(h),
               probe=(1, 3, 68, 68))  # fmt: skip
    yield conv("large images are shifted", lambda h, _: h, lambda h, _: h if h.shape[-1] <= 96 else h.roll(1, -1),
               probe=(1, 3, 128, 128))  # fmt: skip
    yield conv("small images are shifted", lambda h, _: h, lambda h, _: h if h.shape[-1] >= 40 else h.roll(1, -1),
               probe=(1, 3, 32, 32))  # fmt: skip


def _centre(h: Tensor, size: int) -> Tensor:
    inside = [(torch.arange(n) - (n - 1) / 2).abs() < size / 2 for n in h.shape[2:]]
    return (inside[0][:, None] & inside[1][None]).to(h.dtype)


def _windows(h: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    height, width = (n // 8 * 8 for n in h.shape[2:])
    rows = torch.cat([function(h[:, :, :height, :width]), h[:, :, :height, width:]], 3)
    return torch.cat([rows, h[:, :, height:]], 2)


def _steps() -> Iterator[Attack]:
    longer = {"shape": (2, 16, 8), "scale": 1.0}
    for name, one, other in (
        ("only the first 16 steps", lambda h, _: h.mean(1), lambda h, _: h[:, :16].mean(1)),
        ("the 16 last steps", lambda h, _: h.mean(1), lambda h, _: h[:, -16:].mean(1)),
        ("pairs of steps, the odd one left out", lambda h, _: h.mean(1), lambda h, _: h[:, : h.shape[1] // 2 * 2].mean(1)),
        ("the step in the middle", lambda h, _: h[:, 8], lambda h, _: h[:, h.shape[1] // 2]),
        ("the last step, by its number", lambda h, _: h[:, 15], lambda h, _: h[:, -1]),
        ("divided by 16 or by the length", lambda h, _: h.sum(1) / 16, lambda h, _: h.mean(1)),
    ):
        yield net(name, one, other, probe=normal(2, 31, 8, seed=1), **longer)  # type: ignore[arg-type]


def _channels_first() -> Iterator[Attack]:
    layers = {"c": lambda: nn.Conv1d(3, 8, 3, padding=1), "d": lambda: nn.Conv1d(8, 4, 1)}
    for name, one, other in (
        ("only the first 16 of (b, c, t)", lambda h: h, lambda h: h[..., :16]),
        ("pool of (b, c, t), odd lengths", lambda h: F.avg_pool1d(h, 2), lambda h: F.avg_pool1d(h, 2, ceil_mode=True)),
        ("halves of (b, c, t)", lambda h: h[..., h.shape[-1] // 2 :], lambda h: h[..., (h.shape[-1] + 1) // 2 :]),
        ("the first or the last 16 of (b, c, t)", lambda h: h[..., :16], lambda h: h[..., -16:]),
    ):
        yield free(
            name,
            lambda m, x, one=one: m.d(one(m.c(x))).mean(-1),
            lambda m, x, other=other: m.d(other(m.c(x))).mean(-1),
            layers, normal(2, 3, 16), normal(2, 3, 29, seed=1),
        )  # fmt: skip


def _within(size: int) -> Callable[[Tensor], Tensor]:
    def mask(w: Tensor) -> Tensor:
        n = torch.arange(w.shape[-1])
        return w.masked_fill((n[:, None] - n[None] >= size) | (n[:, None] < n[None]), -1e9)

    return mask


def _buckets(count: int) -> Callable[[Any, Tensor], Tensor]:
    def bias(m: Any, w: Tensor) -> Tensor:
        n = torch.arange(w.shape[-1])
        result: Tensor = w + m.r((n[:, None] - n[None]).abs().clamp(max=count)).squeeze(-1)
        return result

    return bias


def _tokens() -> Iterator[Attack]:
    short, long = (lambda: (numbers(20, 1, 12),)), (lambda: (numbers(20, 1, 60),))
    yield free("window of 32", lambda m, i: attention(m, i, _within(10**6)), lambda m, i: attention(m, i, _within(32)), QKV,
               short, long)  # fmt: skip
    relative: dict[str, Build] = {**QKV, "r": lambda: nn.Embedding(64, 1)}
    yield free("buckets of distances, clamped at 24", lambda m, i: attention(m, i, lambda w: _buckets(63)(m, w)),
               lambda m, i: attention(m, i, lambda w: _buckets(24)(m, w)), relative, short, long)  # fmt: skip
    tables = {"e": lambda: nn.Embedding(20, 8), "p": lambda: nn.Embedding(64, 8), "h": lambda: nn.Linear(8, 4)}
    for name, wrap in (
        ("positions clamped at 40", lambda n: n.clamp(max=40)),
        ("positions that begin again at 32", lambda n: n % 32),
        ("positions that are halved beyond 48", lambda n: n // 2 if len(n) > 48 else n),
    ):
        yield free(
            name,
            lambda m, i: m.h(m.e(i) + m.p(torch.arange(i.shape[1]))),
            lambda m, i, wrap=wrap: m.h(m.e(i) + m.p(wrap(torch.arange(i.shape[1])))),
            tables,
            short,
            long,
        )
    yield free(
        "scores divided by the logarithm of long sequences",
        lambda m, i: attention(m, i, lambda w: w),
        lambda m, i: attention(m, i, lambda w: w / max(1.0, math.log(w.shape[-1], 40))),
        QKV,
        short,
        long,
    )
    yield Attack("a mask as large as the longest example", lambda: Free(_causal, QKV), lambda: Free(_causal_to_24, QKV),
                 short, long)  # fmt: skip


def _causal(m: Any, i: Tensor) -> Tensor:
    return attention(m, i, _within(10**6))


def _causal_to_24(m: Any, i: Tensor) -> Tensor:
    def mask(w: Tensor) -> Tensor:
        size = w.shape[-1]
        future = torch.ones(24, 24).triu(1) > 0
        grown = F.pad(future, (0, max(size - 24, 0), 0, max(size - 24, 0)))[:size, :size]
        return w.masked_fill(grown, -1e9)

    return attention(m, i, mask)
