"""Calls: options in combination and of every kind, without a sample, and after a call with another option."""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.proof.attacks.attack import Attack

_HOLES = torch.tensor([[1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 0, 0]])
Forward = Callable[..., Any]


def _floats(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class _Layers(nn.Module):
    """Two layers; a subclass says how they are called. What a call keeps is in `kept`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = nn.Linear(8, 8), nn.Linear(8, 4)
        self.kept: Tensor | None = None

    def inner(self, x: Tensor) -> Tensor:
        """Compute (b, n, 8) of (b, n, 8)."""
        return torch.tanh(self.a(x))


def _of(forward: Forward) -> Callable[[], nn.Module]:
    def built() -> nn.Module:
        made: nn.Module = type("_Made", (_Layers,), {"forward": forward})()
        return made

    return built


def _pair(name: str, one: Forward, other: Forward, probe: Any, example: Any = None) -> Attack:
    given = (torch.randn(2, 6, 8),) if example is None else example
    return Attack(name, _of(one), _of(other), lambda: given, lambda: probe)


def attacks() -> Iterator[Attack]:
    """Yield the attacks of each kind in turn."""
    yield from _together()
    yield from _three()
    yield from _kinds()
    yield from _held()
    yield from _empty()
    yield _after_a_call()
    yield from _beyond()


def _masked(h: Tensor, mask: Tensor | None) -> Tensor:
    return h if mask is None else h * mask[..., None]


def _summed(h: Tensor, causal: bool) -> Tensor:
    return h.cumsum(1) if causal else h


def _mask_first(m: Any, x: Tensor, mask: Any = None, causal: bool = False) -> Any:
    return m.h(_summed(_masked(m.inner(x), mask), causal))


def _switch_first(m: Any, x: Tensor, mask: Any = None, causal: bool = False) -> Any:
    return m.h(_masked(_summed(m.inner(x), causal), mask))


def _scaled(m: Any, x: Tensor, mask: Any = None, scale: float = 1.0) -> Any:
    return m.h(_masked(m.inner(x), mask) * scale)


def _scaled_without_mask(m: Any, x: Tensor, mask: Any = None, scale: float = 1.0) -> Any:
    return m.h(_masked(m.inner(x), mask) * (scale if mask is None else 1))


def _pooled(m: Any, x: Tensor, mask: Any = None, pool: str = "none") -> Any:
    h = _masked(m.inner(x), mask)
    return m.h(h.mean(1) if pool == "mean" else h)


def _pooled_of_kept(m: Any, x: Tensor, mask: Any = None, pool: str = "none") -> Any:
    h = _masked(m.inner(x), mask)
    kept = x.shape[1] if mask is None else mask.sum(1, True)
    return m.h(h.sum(1) / kept if pool == "mean" else h)


def _positions(one: str) -> Forward:
    def forward(m: Any, x: Tensor, mask: Any = None, place: Any = None) -> Any:
        own = torch.arange(x.shape[1]).expand(x.shape[:2])
        counted = own if mask is None else mask.cumsum(1)
        given = counted if place is None else place
        chosen = given if one == "place" or mask is None else counted
        return m.h(m.inner(x) * (1 + chosen[..., None]))

    return forward


def _together() -> Iterator[Attack]:
    x = _floats(2, 6, 8)
    yield _pair("a mask and a switch, in the other order", _mask_first, _switch_first, (x, _HOLES, True))
    yield _pair(
        "a mask and a switch, given as None and False", _mask_first, _switch_first, (x, _HOLES, True),
        (torch.randn(2, 6, 8), None, False),
    )  # fmt: skip
    yield _pair("a mask and a scale, ignored", _scaled, _scaled_without_mask, (x, _HOLES, 2.0))
    yield _pair("a mask and a word, over what it keeps", _pooled, _pooled_of_kept, (x, _HOLES, "mean"))
    yield _pair(
        "a mask and positions, which of them wins", _positions("place"), _positions("mask"),
        (x, _HOLES, torch.arange(6).flip(0).expand(2, 6)),
    )  # fmt: skip


def _three() -> Iterator[Attack]:
    def forward(m: Any, x: Tensor, mask: Any = None, bias: Any = None, unit: bool = False) -> Any:
        h = _masked(m.inner(x), mask) + (0 if bias is None else bias)
        return m.h(h / (1 + h.norm(dim=-1, keepdim=True)) if unit else h)

    def other(m: Any, x: Tensor, mask: Any = None, bias: Any = None, unit: bool = False) -> Any:
        return forward(m, x, mask, bias, unit and (mask is None or bias is None))

    yield _pair("a mask, a bias and a switch", forward, other, (_floats(2, 6, 8), _HOLES, _floats(2, 6, 8, seed=8), True))


class _Mode(enum.Enum):
    PLAIN = 1
    SUMMED = 2


@dataclass
class _Options:
    causal: bool = False


_OPTIONS = _Options()


def _kinds() -> Iterator[Attack]:
    def member(m: Any, x: Tensor, mode: _Mode = _Mode.PLAIN) -> Any:
        return m.h(_summed(m.inner(x), mode is _Mode.SUMMED))

    def stated(m: Any, x: Tensor, mode: Literal["plain", "of sums"] | None = None) -> Any:
        return m.h(_summed(m.inner(x), mode == "of sums"))

    def held(m: Any, x: Tensor, options: _Options = _OPTIONS) -> Any:
        return m.h(_summed(m.inner(x), options.causal))

    def plain(m: Any, x: Tensor, mode: Any = _Mode.PLAIN, options: Any = None) -> Any:
        return m.h(m.inner(x))

    def unstated(m: Any, x: Tensor, mode: Literal["plain", "of sums"] | None = None, options: Any = _OPTIONS) -> Any:
        return m.h(m.inner(x))

    x = _floats(2, 6, 8)
    yield _pair("a member of an enumeration, ignored", member, plain, (x, _Mode.SUMMED))
    yield _pair("a word that an annotation states, ignored", stated, unstated, (x, "of sums"))
    yield _pair("an option in a default, ignored", held, unstated, {"x": x, "options": _Options(True)})
    given = torch.randn(2, 6, 8)
    yield _pair(
        "a slice, up to the end", lambda m, x, keep: m.h(m.inner(x))[:, keep],
        lambda m, x, keep: m.h(m.inner(x))[:, keep.start :], (x, slice(1, 3)), (given, slice(1, None)),
    )  # fmt: skip
    yield _pair(
        "a range, its sum squared", lambda m, x, steps: m.h(m.inner(x) * sum(steps)),
        lambda m, x, steps: m.h(m.inner(x) * sum(steps) ** 2), (x, range(4)), (given, range(2)),
    )  # fmt: skip


def _held() -> Iterator[Attack]:
    x, given = _floats(2, 6, 8), torch.randn(2, 6, 8)
    yield _pair(
        "a mask in an object that had None, turned", lambda m, b: m.h(_masked(m.inner(b.x), b.mask)),
        lambda m, b: m.h(_masked(m.inner(b.x), None if b.mask is None else 1 - b.mask)),
        (SimpleNamespace(x=x, mask=_HOLES),), (SimpleNamespace(x=given, mask=None),),
    )  # fmt: skip
    yield _pair(
        "a mask of the second dict in a list, ignored",
        lambda m, bs: [m.h(_masked(m.inner(b["x"]), b.get("mask"))) for b in bs],
        lambda m, bs: [m.h(_masked(m.inner(b["x"]), bs[0].get("mask") if "mask" in bs[0] else None)) for b in bs],
        ([{"x": x}, {"x": x, "mask": _HOLES}],), ([{"x": given}, {"x": given}],),
    )  # fmt: skip
    yield _pair(
        "None for a tensor of the example, one in the place of nothing",
        lambda m, x, y: m.h(m.inner(x) + (0 if y is None else y)), lambda m, x, y: m.h(m.inner(x) + (1 if y is None else y)),
        (x, None), (given, torch.randn(2, 6, 8)),
    )  # fmt: skip


def _beyond() -> Iterator[Attack]:
    """Yield longer lists, options in another order and below 0, and masks of floats than the example has."""
    x, given = _floats(2, 6, 8), torch.randn(2, 6, 8)
    two = [given, given + 1]
    yield _pair(
        "of a list, the first six", lambda m, xs: sum(m.h(m.inner(x)) for x in xs),
        lambda m, xs: sum(m.h(m.inner(x)) for x in xs[:6]), ([x] * 9,), (two,),
    )  # fmt: skip
    yield _pair(
        "of a list, the last five", lambda m, xs: sum(m.h(m.inner(x)) for x in xs),
        lambda m, xs: sum(m.h(m.inner(x)) for x in xs[-5:]), ([x] * 7,), (two,),
    )  # fmt: skip
    yield _pair(
        "layers in falling order, sorted", lambda m, x, out=(1,): [(m.inner(x), m.h(x).tanh())[i] for i in out],
        lambda m, x, out=(1,): [(m.inner(x), m.h(x).tanh())[i] for i in sorted(out)], (x, (1, 0)),
    )  # fmt: skip
    yield _pair(
        "a scale below 0, bounded", lambda m, x, scale=1.0: m.h(m.inner(x)) * scale,
        lambda m, x, scale=1.0: m.h(m.inner(x)) * max(-3.7, scale), (x, -5.0),
    )  # fmt: skip
    holes = _HOLES == 0
    yield _pair(
        "a mask of floats, of which the sign counts", _added,
        lambda m, x, mask: _added(m, x, mask if mask.dtype is torch.bool else mask > 0),
        (x, torch.zeros(2, 6, dtype=torch.float64).masked_fill(holes, -torch.inf)), (given, holes),
    )  # fmt: skip


def _added(m: Any, x: Tensor, mask: Tensor) -> Any:
    hidden = torch.zeros(mask.shape, dtype=x.dtype).masked_fill(mask, -torch.inf) if mask.dtype is torch.bool else mask
    return m.h((m.inner(x) @ x.mT + hidden[:, None]).softmax(-1) @ x)


def _empty() -> Iterator[Attack]:
    def summed(m: Any, x: Tensor) -> Any:
        return m.h(m.inner(x).sum(0))

    def nothing(m: Any, x: Tensor) -> Any:
        return summed(m, x) if len(x) else x.new_zeros(4)

    def listed(m: Any, parts: Any) -> Any:
        return m.h(sum((m.inner(part) for part in parts), torch.zeros(8, dtype=m.a.weight.dtype)))

    def unlisted(m: Any, parts: Any) -> Any:
        return listed(m, parts) if parts else torch.zeros(4, dtype=m.a.weight.dtype)

    yield _pair("no boxes: zeros, or the bias", summed, nothing, (_floats(0, 8),), (torch.randn(5, 8),))
    yield _pair("an empty list: zeros, or the bias", listed, unlisted, ([],), ([torch.randn(8), torch.randn(8)],))


def _keeping(wrong: bool) -> Forward:
    def forward(m: Any, x: Tensor, use_cache: bool = False) -> Any:
        h = m.inner(x)
        if m.kept is not None and (use_cache or wrong) and m.kept.shape == h.shape:
            h = h + m.kept
        m.kept = h.detach() if use_cache else m.kept if wrong else None
        return m.h(h)

    return forward


class _Twice(nn.Module):
    """A model that is called with its option, and then without."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.inside = _of(_keeping(wrong))()

    def forward(self, x: Tensor, use_cache: bool = False, twice: bool = False) -> Any:
        """Return what the last call returns."""
        if twice:
            self.inside(x, use_cache=True)
        return self.inside(x, use_cache=use_cache)


def _after_a_call() -> Attack:
    return Attack(
        "a cache that a call with another option has left", lambda: _Twice(False), lambda: _Twice(True),
        lambda: (torch.randn(2, 6, 8),), lambda: {"x": _floats(2, 6, 8), "twice": True},
    )  # fmt: skip
