"""Layers with equal inputs and shapes, whose readers are spelled otherwise: gates, blocks on one context, branches."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack
from benchmarks.proof.attacks.roles import Forward, Layers, State, linear, pair, renamed


def attacks() -> Iterator[Attack]:
    """Yield all pairs."""
    yield from _gates()
    yield from _mixed()
    yield from _one_context()
    yield from _modulated()
    yield from _branches()
    yield from _towers()
    yield from _several()


# -- gates of a cell ------------------------------------------------------------------------------------------------------


def _gates() -> Iterator[Attack]:
    names = {
        "xr": linear(4, 6),
        "xz": linear(4, 6),
        "xn": linear(4, 6),
        "hr": linear(6, 6),
        "hz": linear(6, 6),
        "hn": linear(6, 6),
    }

    def cell(m: Any, x: Tensor, mix: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Any:
        h = x.new_zeros(x.shape[0], 6)
        for t in range(4):
            z, r = torch.sigmoid(m.xz(x[:, t]) + m.hz(h)), torch.sigmoid(m.xr(x[:, t]) + m.hr(h))
            h = mix(z, torch.tanh(m.xn(x[:, t]) + r * m.hn(h)), h)
        return h

    order = dict(sorted(names.items(), reverse=True))
    yield pair("gates in another order, a mix spelled otherwise",
               (names, lambda m, x: cell(m, x, lambda z, n, h: torch.lerp(n, h, z))),
               (order, lambda m, x: cell(m, x, lambda z, n, h: z * h + (1 - z) * n)), dict, (3, 4, 4))  # fmt: skip
    joined = {"x": linear(4, 18), "h": linear(6, 18)}

    def parts(m: Any, x: Tensor) -> Any:
        h = x.new_zeros(x.shape[0], 6)
        for t in range(4):
            (xr, xz, xn), (hr, hz, hn) = m.x(x[:, t]).chunk(3, -1), m.h(h).chunk(3, -1)
            z = torch.sigmoid(xz + hz)
            h = (h - (n := torch.tanh(xn + torch.sigmoid(xr + hr) * hn))) * z + n
        return h

    yield pair("joined gates into single ones", (joined, parts),
               (order, lambda m, x: cell(m, x, lambda z, n, h: z * h + (1 - z) * n)),
               lambda s: {f"{w}{g}.{e}": s[f"{w}.{e}"].chunk(3)[i]
                          for w in "xh" for i, g in enumerate("rzn") for e in ("weight", "bias")}, (3, 4, 4))  # fmt: skip
    yield pair("a GRU into single gates", ({"r": lambda: nn.GRU(4, 6)}, lambda m, x: m.r(x.transpose(0, 1))[0][-1]),
               (order, lambda m, x: cell(m, x, lambda z, n, h: z * h + (1 - z) * n)), lambda s: _single(s, "rzn"),
               (3, 4, 4))  # fmt: skip
    four = {f"{w}{g}": linear(4 if w == "x" else 6, 6) for w in "xh" for g in "ofig"}

    def lstm(m: Any, x: Tensor) -> Any:
        h = c = x.new_zeros(x.shape[0], 6)
        for t in range(3):
            i, f, g, o = (getattr(m, f"x{n}")(x[:, t]) + getattr(m, f"h{n}")(h) for n in "ifgo")
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h

    yield pair("an LSTM into single gates", ({"r": lambda: nn.LSTM(4, 6)}, lambda m, x: m.r(x.transpose(0, 1))[0][-1]),
               (four, lstm), lambda s: _single(s, "ifgo"), (2, 3, 4))  # fmt: skip


def _single(state: State, gates: str) -> dict[str, Tensor]:
    """Return the tensors of single gates from those of a cell of torch."""
    return {
        f"{which}{gate}.{end}": state[f"r.{end}_{'h' if which == 'h' else 'i'}h_l0"].chunk(len(gates))[i]
        for which in "xh"
        for i, gate in enumerate(gates)
        for end in ("weight", "bias")
    }


def _mixed() -> Iterator[Attack]:
    """Yield gates and layers on one input, mixed by another operation."""
    gated = {"t": linear(8, 8), "h": linear(8, 8), "o": linear(8, 3)}

    def highway(m: Any, x: Tensor) -> Any:
        return m.o(torch.lerp(x, torch.sigmoid(m.h(x)), torch.sigmoid(m.t(x))))

    def spelled(m: Any, x: Tensor) -> Any:
        t = torch.sigmoid(m.t(x))
        return m.o(torch.sigmoid(m.h(x)) * t + x * (1 - t))

    order = {"h": linear(8, 8), "t": linear(8, 8), "o": linear(8, 3)}
    yield pair("a highway, lerp and spelled out", (gated, highway), (order, spelled), dict, (5, 8))
    yield pair("a highway, spelled out and lerp", (gated, spelled), (order, highway), dict, (5, 8))
    powers = {"a": linear(8, 8), "b": linear(8, 8), "c": linear(8, 8), "o": linear(8, 3)}
    yield pair(
        "a product and a sum, by addcmul",
        (powers, lambda m, x: m.o(torch.addcmul(m.a(x), m.b(x).tanh(), m.c(x)))),
        (dict(sorted(powers.items(), reverse=True)), lambda m, x: m.o(m.c(x) * m.b(x).tanh() + m.a(x))),
        dict,
        (5, 8),
    )
    yield pair(
        "a distance of two layers, by hypot",
        (powers, lambda m, x: m.o(torch.hypot(m.a(x), m.b(x) + 2 * m.c(x)))),
        (dict(sorted(powers.items(), reverse=True)), lambda m, x: m.o((m.a(x) ** 2 + (m.b(x) + 2 * m.c(x)) ** 2).sqrt())),
        dict,
        (5, 8),
    )
    yield pair(
        "an angle of two layers, from a complex number",
        (powers, lambda m, x: m.o(m.c(x) + torch.complex(m.a(x), m.b(x)).angle())),
        (dict(sorted(powers.items(), reverse=True)), lambda m, x: m.o(m.c(x) + torch.atan2(m.b(x), m.a(x)))),
        dict,
        (5, 8),
    )


# -- several blocks on one context ----------------------------------------------------------------------------------------


def _one_context() -> Iterator[Attack]:
    def blocks(count: int) -> Layers:
        return {f"{n}{i}": linear(8, 8, bias=False) for i in range(count) for n in "qkvo"}

    def attend(scores: Callable[[Tensor, Tensor], Tensor], mix: Callable[[Tensor, Tensor], Tensor], count: int) -> Forward:
        def forward(m: Any, x: Tensor, c: Tensor) -> Any:
            for i in range(count):
                q, k, v, o = (getattr(m, f"{n}{i}") for n in "qkvo")
                x = x + o(mix(scores(q(x), k(c)).softmax(-1), v(c)))
            return x

        return forward

    product = lambda a, b: a @ b  # noqa: E731
    for name, one, other in (
        ("baddbmm", lambda q, k: torch.baddbmm(q.new_zeros(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=0.5),
         lambda q, k: q @ k.transpose(1, 2) * 0.5),
        ("einsum", lambda q, k: torch.einsum("bqd,bkd->bqk", q, k), lambda q, k: q @ k.transpose(1, 2)),
        ("sums of products", lambda q, k: (q[:, :, None] * k[:, None]).sum(-1), lambda q, k: q @ k.transpose(1, 2)),
        ("distances", lambda q, k: -torch.cdist(q, k) ** 2,
         lambda q, k: 2 * q @ k.transpose(1, 2) - (q * q).sum(-1)[..., None] - (k * k).sum(-1)[:, None]),
    ):  # fmt: skip
        for count in (2, 3):
            yield pair(f"{count} blocks on one context, scores by {name}", (blocks(count), attend(one, product, count)),
                       (_reversed(blocks(count)), attend(other, product, count)), dict, (2, 5, 8),
                       (2, 4, 8))  # fmt: skip
    mix = lambda w, v: (w[..., None] * v[:, None]).sum(2)  # noqa: E731
    yield pair(
        "2 blocks on one context, mixed by sums",
        (blocks(2), attend(lambda q, k: q @ k.transpose(1, 2), mix, 2)),
        (_reversed(blocks(2)), attend(lambda q, k: q @ k.transpose(1, 2), product, 2)),
        dict,
        (2, 5, 8),
        (2, 4, 8),
    )


def _reversed(layers: Layers) -> Layers:
    return dict(reversed(list(layers.items())))


def _modulated() -> Iterator[Attack]:
    """Yield scales and shifts of every block from one context."""
    film = {f"{n}{i}": linear(4, 8) for i in range(2) for n in "gb"} | {f"w{i}": linear(8, 8) for i in range(2)}

    def blocks(change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Forward:
        def forward(m: Any, x: Tensor, c: Tensor) -> Any:
            for i in range(2):
                x = torch.tanh(getattr(m, f"w{i}")(change(x, getattr(m, f"g{i}")(c), getattr(m, f"b{i}")(c))))
            return x

        return forward

    spellings = {
        "addcmul": lambda x, g, b: torch.addcmul(b, x, g),
        "a product": lambda x, g, b: x * g + b,
        "a difference": lambda x, g, b: b - x * -g,
        "einsum": lambda x, g, b: torch.einsum("bc,bc->bc", x, g) + b,
    }
    for one, other in (
        ("addcmul", "a product"),
        ("a product", "addcmul"),
        ("a difference", "addcmul"),
        ("einsum", "addcmul"),
    ):
        yield pair(f"scales and shifts, by {one} and by {other}", (film, blocks(spellings[one])),
                   (dict(sorted(film.items())), blocks(spellings[other])), dict, (5, 8), (5, 4))  # fmt: skip
    six = {"e": linear(4, 24), "w": linear(8, 8), "h": linear(8, 8)}

    def adaptive(places: tuple[int, int, int]) -> Forward:
        def forward(m: Any, x: Tensor, c: Tensor) -> Any:
            parts = F.silu(m.e(c)).chunk(3, -1)
            shift, scale, gate = (parts[i] for i in places)
            return m.h(x + gate * torch.tanh(m.w(x * (1 + scale) + shift)))

        return forward

    yield pair("shift, scale and gate in another order", (six, adaptive((0, 1, 2))), (six, adaptive((2, 0, 1))),
               lambda s: {k: torch.cat([v.chunk(3)[i] for i in (1, 2, 0)]) if k[0] == "e" else v for k, v in s.items()},
               (5, 8), (5, 4))  # fmt: skip


# -- branches and towers --------------------------------------------------------------------------------------------------


def _branches() -> Iterator[Attack]:
    """Yield heads behind branches in another order."""
    text = {f"c{k}": (lambda k=k: nn.Conv1d(6, 5, k)) for k in (2, 3)} | {"o": linear(10, 3)}
    flat = {f"c{k}": (lambda k=k: nn.Conv2d(1, 5, (k, 6))) for k in (3, 2)} | {"o": linear(10, 3)}

    def lines(m: Any, x: Tensor) -> Any:
        return m.o(torch.cat([F.relu(c(x.transpose(1, 2))).amax(2) for c in (m.c2, m.c3)], 1))

    def maps(m: Any, x: Tensor) -> Any:
        return m.o(torch.cat([F.relu(c(x[:, None])).flatten(2).amax(2) for c in (m.c3, m.c2)], 1))

    yield pair("convolutions of lines and of maps", (text, lines), (flat, maps),
               lambda s: {f"c{k}.weight": s[f"c{k}.weight"].transpose(1, 2)[:, None] for k in (2, 3)}
               | {f"c{k}.bias": s[f"c{k}.bias"] for k in (2, 3)}
               | {"o.weight": s["o.weight"].roll(5, 1), "o.bias": s["o.bias"]},
               (3, 9, 6))  # fmt: skip
    two = {"a": linear(6, 5), "b": linear(6, 5), "o": linear(10, 3)}

    def joined(m: Any, x: Tensor, order: str, act: Callable[[Tensor], Tensor]) -> Any:
        return m.o(torch.cat([act(getattr(m, n)(x)) for n in order], 1))

    swish = lambda h: h * torch.sigmoid(1.7 * h)  # noqa: E731
    other = lambda h: h / (1 + torch.exp(-1.7 * h))  # noqa: E731
    yield pair("branches joined in another order, behind another spelling", (two, lambda m, x: joined(m, x, "ab", swish)),
               (two, lambda m, x: joined(m, x, "ba", other)),
               lambda s: {**s, "o.weight": s["o.weight"].roll(5, 1)}, (7, 6))  # fmt: skip
    yield pair("branches that are joined and branches that are added", (two, lambda m, x: joined(m, x, "ab", torch.tanh)),
               ({"a": linear(6, 5), "b": linear(6, 5), "p": linear(5, 3), "q": linear(5, 3, bias=False)},
                lambda m, x: m.q(torch.tanh(m.b(x))) + m.p(torch.tanh(m.a(x)))),
               lambda s: {**renamed(s, a="a", b="b"), "p.weight": s["o.weight"][:, :5], "p.bias": s["o.bias"],
                          "q.weight": s["o.weight"][:, 5:]}, (7, 6))  # fmt: skip


def _towers() -> Iterator[Attack]:
    """Yield two towers on one input, which meet in an operation that is spelled otherwise."""
    towers = {"a": linear(6, 8), "b": linear(8, 8), "c": linear(6, 8), "d": linear(8, 8), "o": linear(8, 3)}
    order = {name: towers[name] for name in "cdabo"}

    def meeting(meet: Callable[[Tensor, Tensor], Tensor]) -> Forward:
        return lambda m, x: m.o(meet(m.b(torch.tanh(m.a(x))), m.d(torch.tanh(m.c(x)))))

    for name, one, other in (
        ("a quotient", lambda a, c: a / (1 + c**2), lambda a, c: a * (1 + c * c).reciprocal()),
        ("a power", lambda a, c: torch.exp(a) - c, lambda a, c: torch.exp(a - c / 2) * torch.exp(c / 2) - c),
        ("a rotation", lambda a, c: a * torch.cos(c), lambda a, c: torch.polar(a.exp(), c).real / a.exp() * a),
        ("a difference of squares", lambda a, c: a**2 - c**2, lambda a, c: (a - c) * (a + c)),
        ("logaddexp", lambda a, c: torch.logaddexp(a, c) - 2 * c, lambda a, c: (a.exp() + c.exp()).log() - 2 * c),
    ):
        yield pair(f"two towers meet in {name}", (towers, meeting(one)), (order, meeting(other)), dict, (5, 6))


def _several() -> Iterator[Attack]:
    """Yield four layers on one input, some of which may be exchanged."""
    four = {"a": linear(6, 8), "c": linear(6, 8), "d": linear(6, 8), "e": linear(6, 8), "b": linear(8, 3)}
    yield pair("a product of complex numbers, and its real part spelled out",
               (four, lambda m, x: m.b((torch.complex(m.a(x), m.c(x)) * torch.complex(m.d(x), m.e(x))).real)),
               (_reversed(four), lambda m, x: m.b(m.a(x) * m.d(x) - m.c(x) * m.e(x))), dict, (5, 6))  # fmt: skip
