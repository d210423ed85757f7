"""Inputs that are constant in the example: masks of ones, segment ids of 0, one token, a timestep of 0."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Build, Draw, Free, Net, free, normal, numbers

_WIDTH = 8


def attacks() -> Iterator[Attack]:
    """Yield the attacks."""
    yield from _masks()
    yield from _indices()
    yield from _times()
    yield from _equal_tokens()


def embedding(size: int = 20) -> Build:
    """Return how an embedding is built."""
    return lambda: nn.Embedding(size, _WIDTH)


def linear(width: int = _WIDTH) -> Build:
    """Return how a linear layer is built."""
    return lambda: nn.Linear(_WIDTH, width)


QKV: Mapping[str, Build] = {"e": embedding(), "q": linear(), "k": linear(), "v": linear()}


def attention(m: Any, ids: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Attend with the scores changed before the softmax."""
    x = m.e(ids)
    scores = change(m.q(x) @ m.k(x).transpose(1, 2) / _WIDTH**0.5)
    result: Tensor = scores.softmax(-1) @ m.v(x)
    return result


def attending(way: Callable[[Any], Any]) -> Build:
    """Return a model that attends with the scores changed."""
    return lambda: Free(lambda m, i: attention(m, i, way), QKV)


def masking(way: Callable[[Any, Any], Any]) -> Build:
    """Return a model that attends with the scores changed by a mask, its second argument."""
    return lambda: Free(lambda m, i, k: attention(m, i, lambda w: way(w, k)), QKV)


def sdpa(m: Any, ids: Tensor, **options: Any) -> Tensor:
    """Attend with torch's fused function."""
    x = m.e(ids)
    return F.scaled_dot_product_attention(m.q(x)[:, None], m.k(x)[:, None], m.v(x)[:, None], **options)[:, 0]


def holes(*shape: int) -> Tensor:
    """Return a mask of ones with holes, of integers."""
    mask = torch.ones(shape, dtype=torch.long)
    mask[..., 2] = 0
    mask[..., -1] = 0
    return mask


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    return (1 - mask.to(like.dtype)) * -1e4


def _masked(name: str, one: Callable[..., Any], other: Callable[..., Any], dtype: torch.dtype = torch.long) -> Attack:
    ids = numbers(20, 2, 6)
    example: Draw = lambda: (ids, torch.ones_like(ids).to(dtype))  # noqa: E731 -- a draw beside a draw
    return free(name, one, other, QKV, example, lambda: (ids, holes(2, 6).to(dtype)), names=("mask", "ids"))


def _masks() -> Iterator[Attack]:
    yield _masked(
        "mask on keys or on queries",
        lambda m, ids, mask: attention(m, ids, lambda w: w + _additive(mask, w)[:, None]),
        lambda m, ids, mask: attention(m, ids, lambda w: w + _additive(mask, w)[:, :, None]),
    )
    yield _masked(
        "mask of ones that is not read",
        lambda m, ids, mask: attention(m, ids, lambda w: w.masked_fill(mask[:, None] == 0, -1e9)),
        lambda m, ids, mask: attention(m, ids, lambda w: w),
    )
    yield _masked(
        "bool mask filled with another number",
        lambda m, ids, mask: attention(m, ids, lambda w: w.masked_fill(~mask[:, None], -1e9)),
        lambda m, ids, mask: attention(m, ids, lambda w: w.masked_fill(~mask[:, None], 0.0)),
        torch.bool,
    )
    yield _masked(
        "bool mask before or after the softmax",
        lambda m, ids, mask: attention(m, ids, lambda w: torch.where(mask[:, None], w, -1e9)),
        lambda m, ids, mask: attention(m, ids, lambda w: w) * mask[:, :, None],
        torch.bool,
    )
    yield _masked(
        "float mask dropped when it is all ones, by a branch",
        lambda m, ids, mask: m.v(m.e(ids) if bool((mask == 1).all()) else m.e(ids) * mask[:, :, None].to(m.e.weight.dtype)),
        lambda m, ids, mask: m.v(m.e(ids)),
    )
    yield _masked(
        "mean over all or over what the mask leaves",
        lambda m, ids, mask: m.v((m.e(ids) * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)),
        lambda m, ids, mask: m.v((m.e(ids) * mask[:, :, None]).mean(1)),
    )
    layers = {"a": linear(), "h": linear()}
    ones: Draw = lambda: (torch.randn(2, 5, 8), torch.ones(2, 5))  # noqa: E731
    some: Draw = lambda: (torch.randn(2, 5, 8), torch.tensor([1.0, 0, 1, 1, 0]).expand(2, 5).contiguous())  # noqa: E731
    yield free(
        "ones as a float mask, before or behind a layer",
        lambda m, x, w: m.h(F.gelu(m.a(x)) * w[..., None]),
        lambda m, x, w: m.h(F.gelu(m.a(x))) * w[..., None],
        layers, ones, some,
    )  # fmt: skip
    yield free(
        "weights of ones: multiplied or divided",
        lambda m, x, w: m.h(m.a(x) * w[..., None]),
        lambda m, x, w: m.h(m.a(x) / (w[..., None] + (w[..., None] == 0))),
        layers, ones, lambda: (torch.randn(2, 5, 8), torch.rand(2, 5) + 0.5),
    )  # fmt: skip
    yield free(
        "attention bias of zeros: scaled or not",
        lambda m, ids, b: attention(m, ids, lambda w: w + b),
        lambda m, ids, b: attention(m, ids, lambda w: w + b / 8),
        QKV, lambda: (numbers(20, 2, 6), torch.zeros(6, 6)), lambda: (numbers(20, 2, 6), torch.randn(6, 6)),
    )  # fmt: skip
    yield free(
        "attention bias of zeros: transposed",
        lambda m, ids, b: attention(m, ids, lambda w: w + b),
        lambda m, ids, b: attention(m, ids, lambda w: w + b.T),
        QKV, lambda: (numbers(20, 2, 6), torch.zeros(6, 6)), lambda: (numbers(20, 2, 6), torch.randn(6, 6)),
    )  # fmt: skip
    yield free(
        "lengths that are full are not read",
        lambda m, x, n: m.h(m.a(x) * (torch.arange(x.shape[1]) < n[:, None])[..., None]),
        lambda m, x, n: m.h(m.a(x)) + 0 * n[:, None, None],
        layers, lambda: (torch.randn(2, 5, 8), torch.tensor([5, 5])), lambda: (torch.randn(2, 5, 8), torch.tensor([5, 2])),
    )  # fmt: skip


def _indices() -> Iterator[Attack]:
    def segments(factor: int) -> Callable[..., Any]:
        return lambda m, i, t: m.e(i) + m.t(t * factor)

    ids = numbers(20, 1, 6)
    zeros: Draw = lambda: (ids, torch.zeros_like(ids))  # noqa: E731
    yield free(
        "segment ids ignored", segments(1), segments(0), {"e": embedding(), "t": embedding(2)}, zeros,
        lambda: (ids, torch.ones_like(ids)),
    )  # fmt: skip
    yield free(
        "segment ids halved",
        segments(1),
        lambda m, i, t: m.e(i) + m.t(t // 2),
        {"e": embedding(), "t": embedding(4)},
        zeros,
        lambda: (ids, numbers(4, 1, 6, seed=3)),
    )
    layers = {"a": linear(), "h": linear()}
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    index = torch.tensor([[4, 0, 3, 1, 2], [1, 1, 0, 4, 3]])
    yield free(
        "index of zeros that is not read",
        lambda m, x, i: m.h(m.a(x).gather(1, i[..., None].expand(-1, -1, 8))),
        lambda m, x, i: m.h(m.a(x)[:, :1].expand(-1, 5, -1)) + 0 * i[..., None],
        layers, lambda: (x, torch.zeros(2, 5, dtype=torch.long)), lambda: (x, index),
    )  # fmt: skip
    yield free(
        "index of zeros, counted from the other end",
        lambda m, x, i: m.h(m.a(x)[torch.arange(2), i]),
        lambda m, x, i: m.h(m.a(x)[torch.arange(2), -i]),
        layers, lambda: (x, torch.zeros(2, dtype=torch.long)), lambda: (x, torch.tensor([1, 3])),
    )  # fmt: skip
    yield free(
        "class 0: a table against its first row",
        lambda m, x, c: m.h(m.a(x)) + m.c(c)[:, None],
        lambda m, x, c: m.h(m.a(x)) + m.c(torch.zeros_like(c))[:, None],
        layers | {"c": embedding(10)}, lambda: (x, torch.zeros(2, dtype=torch.long)), lambda: (x, torch.tensor([3, 9])),
    )  # fmt: skip
    yield free(
        "positions 0, 1, 2 that are passed and not read",
        lambda m, i, p: m.e(i) + m.p(p),
        lambda m, i, p: m.e(i) + m.p(torch.arange(i.shape[1]))[None] + 0 * p[..., None],
        {"e": embedding(), "p": embedding(16)},
        lambda: (ids, torch.arange(6)[None]),
        lambda: (ids, torch.arange(6)[None] + 3),
    )


class _Timed(nn.Module):
    """A layer whose output a sinus table of the timestep shifts."""

    def __init__(self, table: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.c, self.t, self.table = nn.Linear(8, 8), nn.Linear(8, 8), table

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Compute (b, 8) of (b, 8) and timesteps (b)."""
        result: Tensor = self.c(x) + self.t(self.table(t[:, None].to(x.dtype)))
        return result


def _sinus(period: float, flip: bool = False) -> Callable[[Tensor], Tensor]:
    def table(t: Tensor) -> Tensor:
        angle = t * period ** (-torch.arange(4, dtype=t.dtype) / 4)
        return torch.cat([angle.cos(), angle.sin() if not flip else -angle.sin()], -1)

    return table


def _times() -> Iterator[Attack]:
    def timed(name: str, one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]) -> Attack:
        return Attack(
            name, lambda: _Timed(one), lambda: _Timed(other), lambda: (torch.randn(2, 8), torch.zeros(2, dtype=torch.long)),
            lambda: (torch.randn(2, 8), torch.tensor([3, 700])),
        )  # fmt: skip

    yield timed("period of timesteps, t = 0", _sinus(1e4), _sinus(1e2))
    yield timed("sign of the sinus, t = 0", _sinus(1e4), _sinus(1e4, flip=True))
    yield timed("timesteps in thousandths, t = 0", _sinus(1e4), lambda t: _sinus(1e4)(t / 1000))
    layers = {"a": linear(), "h": linear()}
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    yield free(
        "a step of size 0: another activation",
        lambda m, x, dt: x + dt * m.h(F.relu(m.a(x))),
        lambda m, x, dt: x + dt * m.h(F.relu6(m.a(x))),
        layers, lambda: (x, torch.zeros(1)), lambda: (x * 100, torch.ones(1)),
    )  # fmt: skip
    yield free(
        "guidance of 1: multiplied or raised to the power",
        lambda m, x, g: m.h(m.a(x)) * g,
        lambda m, x, g: m.h(m.a(x)) * g**2,
        layers, lambda: (x, torch.ones(1)), lambda: (x, torch.full((1,), 7.5)),
    )  # fmt: skip


def _equal_tokens() -> Iterator[Attack]:
    yield free(
        "one token: attention without its scale",
        lambda m, i: attention(m, i, lambda w: w), lambda m, i: attention(m, i, lambda w: w * 3), QKV,
        lambda: (torch.tensor([[1]]),), lambda: (numbers(20, 1, 9),),
    )  # fmt: skip
    yield free(
        "equal tokens: mean against the first one",
        lambda m, i: m.q(m.e(i).mean(1)), lambda m, i: m.q(m.e(i)[:, 0]), {"e": embedding(), "q": linear()},
        lambda: (torch.full((1, 5), 7),), lambda: (numbers(20, 2, 5),),
    )  # fmt: skip
    yield free(
        "equal tokens: attention that is causal or not",
        lambda m, i: attention(m, i, lambda w: w),
        lambda m, i: attention(m, i, lambda w: w.masked_fill(torch.ones(w.shape[-2:]).triu(1) > 0, -1e9)), QKV,
        lambda: (torch.full((2, 5), 7),), lambda: (numbers(20, 2, 5),),
    )  # fmt: skip
    yield Attack(
        "an image of zeros: scaled input",
        lambda: Net(lambda h, _: F.relu(h)),
        lambda: Free(lambda m, x: m.h(F.relu(m.a(x * 2))), {"a": linear(), "h": linear(4)}),
        lambda: (torch.zeros(2, 8),),
        normal(2, 8),
    )
