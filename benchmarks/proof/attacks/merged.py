"""A layer that holds what two layers of the source hold, and rows that stand in another order."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Build
from benchmarks.proof.attacks.roles import Layers, Truth, conv, linear, pair, renamed


def attacks() -> Iterator[Attack]:
    """Yield all pairs."""
    yield from _merged()
    yield from _merged_maps()
    yield from _rows()
    yield from _interleaved()
    yield from _neutral()


# -- a layer that holds what two layers of the source hold ------------------------------------------------------------------


def _merged() -> Iterator[Attack]:
    mlp = {"a": linear(6, 16), "b": linear(16, 3)}
    low = {"p": linear(6, 4, bias=False), "q": linear(4, 16, bias=False)}
    low2 = {"p": linear(16, 2, bias=False), "q": linear(2, 3, bias=False)}

    def merged(layer: str, scale: float = 1.0) -> Truth:
        return lambda s: {**s, f"{layer}.weight": s[f"{layer}.weight"] + scale * s["q.weight"] @ s["p.weight"]}

    def plain(m: Any, x: Tensor) -> Any:
        return m.b(F.gelu(m.a(x)))

    yield pair(
        "a low-rank update of the first layer",
        (mlp | low, lambda m, x: m.b(F.gelu(m.a(x) + 2 * m.q(m.p(x))))),
        (mlp, plain),
        _of(mlp, merged("a", 2.0)),
        (5, 6),
    )
    yield pair(
        "a low-rank update of the last layer",
        (mlp | low2, lambda m, x: (h := F.gelu(m.a(x)), m.b(h) + m.q(m.p(h)))[1]),
        (mlp, plain),
        _of(mlp, merged("b")),
        (5, 6),
    )
    deep = {"s": linear(8, 8), "a": linear(8, 16), "b": linear(16, 8), "n": lambda: nn.LayerNorm(8), "h": linear(8, 3)}
    side = {"p": linear(16, 2, bias=False), "q": linear(2, 8, bias=False)}

    def block(m: Any, x: Tensor, parallel: bool) -> Any:
        x = m.s(x)
        h = F.gelu(m.a(m.n(x)))
        x = x + m.b(h)
        return m.h(torch.tanh(x + m.q(m.p(h)) if parallel else x))

    yield pair(
        "a low-rank branch behind a residual",
        (deep | side, lambda m, x: block(m, x, True)),
        (deep, lambda m, x: block(m, x, False)),
        _of(deep, merged("b")),
        (5, 8),
    )
    yield pair(
        "a scale for each channel behind a layer",
        (mlp | {"n": lambda: _Scale(16)}, lambda m, x: m.b(F.gelu(m.n(m.a(x))))),
        (mlp, plain),
        _of(mlp, lambda s: {**s, "a.weight": s["a.weight"] * s["n.w"][:, None], "a.bias": s["a.bias"] * s["n.w"]}),
        (5, 6),
    )
    yield pair("two layers in a row", ({"a": linear(6, 6), "c": linear(6, 6), "b": linear(6, 3)},
                                       lambda m, x: m.b(F.gelu(m.c(m.a(x))))),
               ({"a": linear(6, 6), "b": linear(6, 3)}, plain),
               lambda s: {**renamed(s, b="b"), "a.weight": s["c.weight"] @ s["a.weight"],
                          "a.bias": s["c.weight"] @ s["a.bias"] + s["c.bias"]}, (5, 6))  # fmt: skip


class _Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w


def _of(layers: Layers, made: Truth) -> Truth:
    """Return a truth without the tensors that the destination lacks."""
    return lambda state: {key: value for key, value in made(state).items() if key.partition(".")[0] in layers}


def _merged_maps() -> Iterator[Attack]:
    layers = {"a": conv(3, 8, 3), "b": conv(8, 4)}

    def plain(m: Any, x: Tensor) -> Any:
        return m.b(F.silu(m.a(x)))

    yield pair("a convolution of 1 beside one of 3",
               (layers | {"c": conv(3, 8)}, lambda m, x: m.b(F.silu(m.a(x) + m.c(x)))), (layers, plain),
               lambda s: {**renamed(s, b="b"), "a.weight": s["a.weight"] + F.pad(s["c.weight"], (1, 1, 1, 1)),
                          "a.bias": s["a.bias"] + s["c.bias"]}, (2, 3, 7, 6))  # fmt: skip
    yield pair("a convolution of 1 behind one of 3",
               (layers | {"c": conv(8, 8)}, lambda m, x: m.b(F.silu(m.c(m.a(x))))), (layers, plain),
               lambda s: {**renamed(s, b="b"),
                          "a.weight": torch.einsum("oi,ixyz->oxyz", s["c.weight"][:, :, 0, 0], s["a.weight"]),
                          "a.bias": s["c.weight"][:, :, 0, 0] @ s["a.bias"] + s["c.bias"]}, (2, 3, 7, 6))  # fmt: skip
    yield pair("a depthwise convolution and its input",
               ({"a": conv(8, 8, 3, 8), "s": conv(3, 8), "b": conv(8, 4)},
                lambda m, x: (h := F.silu(m.s(x)), m.b(F.silu(m.a(h) + h)))[1]),
               ({"a": conv(8, 8, 3, 8), "s": conv(3, 8), "b": conv(8, 4)}, lambda m, x: m.b(F.silu(m.a(F.silu(m.s(x)))))),
               lambda s: {**s, "a.weight": s["a.weight"] + F.pad(s["a.weight"].new_ones(8, 1, 1, 1), (1, 1, 1, 1))},
               (2, 3, 7, 6))  # fmt: skip


# -- rows in another order ------------------------------------------------------------------------------------------------


def _depth(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // 4, 2 * h, 2 * w)


def _unshuffled(v: Tensor) -> Tensor:
    return v.view(-1, 2, 2, *v.shape[1:]).movedim(0, 2).reshape(v.shape)


def _rows() -> Iterator[Attack]:
    up = {"p": conv(3, 16, 3), "q": conv(4, 3, 3)}

    def rows(*names: str) -> Truth:
        return lambda s: {k: _unshuffled(v) if k.partition(".")[0] in names else v for k, v in s.items()}

    for name, act in (("relu", F.relu), ("tanh", torch.tanh), ("nothing", lambda h: h)):
        yield pair(f"pixel shuffle and depth to space, behind {name}",
                   (up, lambda m, x, act=act: m.q(F.pixel_shuffle(act(m.p(x)), 2))),
                   (up, lambda m, x, act=act: m.q(_depth(act(m.p(x))))), rows("p"), (2, 3, 6, 5))  # fmt: skip
    wide = {"s": conv(3, 16), "d": conv(16, 16, 3, 16), "q": conv(4, 3, 3)}
    yield pair("depth to space behind a depthwise convolution",
               (wide, lambda m, x: m.q(F.pixel_shuffle(F.relu(m.d(F.relu(m.s(x)))), 2))),
               (wide, lambda m, x: m.q(_depth(F.relu(m.d(F.relu(m.s(x))))))), rows("s", "d"), (2, 3, 6, 5))  # fmt: skip
    normed = {"p": conv(3, 16, 3), "n": lambda: nn.BatchNorm2d(16), "q": conv(4, 3, 3)}
    yield pair("depth to space behind a norm",
               (normed, lambda m, x: m.q(F.pixel_shuffle(F.relu(m.n(m.p(x))), 2))),
               (normed, lambda m, x: m.q(_depth(F.relu(m.n(m.p(x)))))),
               lambda s: {k: v if k[0] == "q" or not v.dim() else _unshuffled(v) for k, v in s.items()},
               (2, 3, 6, 5))  # fmt: skip
    yield pair(
        "depth to space before another activation",
        (up, lambda m, x: m.q(F.relu(F.pixel_shuffle(F.relu(m.p(x)), 2)))),
        (up, lambda m, x: m.q(_depth(m.p(x).clamp(min=0)).clamp(min=0))),
        rows("p"),
        (2, 3, 6, 5),
    )
    yield pair(
        "depth to space of a sum",
        (up | {"r": conv(3, 16)}, lambda m, x: m.q(F.pixel_shuffle(F.relu(m.p(x) + m.r(x)), 2))),
        (up | {"r": conv(3, 16)}, lambda m, x: m.q(_depth(F.relu(m.p(x) + m.r(x))))),
        rows("p", "r"),
        (2, 3, 6, 5),
    )


def _interleave(v: Tensor) -> Tensor:
    return v.view(2, -1, *v.shape[1:]).transpose(0, 1).reshape(v.shape)


def _interleaved() -> Iterator[Attack]:
    glu = {"a": linear(6, 16), "b": linear(8, 3)}
    yield pair(
        "halves and even rows of a gate",
        (glu, lambda m, x: m.b(F.glu(m.a(x), -1))),
        (glu, lambda m, x: (h := m.a(x), m.b(h[..., ::2] * torch.sigmoid(h[..., 1::2])))[1]),
        lambda s: {**renamed(s, b="b"), "a.weight": _interleave(s["a.weight"]), "a.bias": _interleave(s["a.bias"])},
        (5, 6),
    )
    heads = {"a": linear(8, 24, bias=False), "o": linear(8, 8)}

    def attend(m: Any, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Any:
        w = (q @ k.transpose(-2, -1)).softmax(-1)
        return m.o((w @ v).transpose(1, 2).flatten(2))

    yield pair("heads of three parts, parts of heads",
               (heads, lambda m, x: attend(m, x, *m.a(x).view(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4))),
               (heads, lambda m, x: attend(m, x, *m.a(x).view(2, 5, 2, 3, 4).permute(3, 0, 2, 1, 4))),
               lambda s: {**s, "a.weight": s["a.weight"].view(3, 2, 4, 8).transpose(0, 1).reshape(24, 8)},
               (2, 5, 8))  # fmt: skip
    maxout = {"a": linear(6, 16), "b": linear(8, 3)}
    yield pair(
        "the larger of two halves, of two neighbours",
        (maxout, lambda m, x: m.b(torch.maximum(*m.a(x).chunk(2, -1)))),
        (maxout, lambda m, x: m.b(m.a(x).view(-1, 8, 2).amax(-1))),
        lambda s: {**renamed(s, b="b"), "a.weight": _interleave(s["a.weight"]), "a.bias": _interleave(s["a.bias"])},
        (5, 6),
    )


# -- a tensor that leaves everything as it is when it is built -----------------------------------------------------------


class _Filled(nn.Module):
    """A tensor of zeros, which training moves away from 0."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(shape))


def _neutral() -> Iterator[Attack]:
    layers: dict[str, Build] = {"a": linear(6, 8), "b": linear(8, 3), "p": linear(6, 4, bias=False)}
    layers["v"] = lambda: _Filled(8, 4)
    yield pair(
        "a low-rank update of zeros, through sinh",
        (layers, lambda m, x: m.b(torch.tanh(m.a(x) + F.linear(m.p(x), m.v.b)))),
        (layers, lambda m, x: m.b(torch.tanh(m.a(x) + torch.einsum("bi,oi->bo", m.p(x), torch.sinh(m.v.b))))),
        lambda s: {**s, "v.b": s["v.b"].asinh()},
        (5, 6),
    )
