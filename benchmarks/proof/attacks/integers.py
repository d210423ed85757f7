"""Integer and complex tensors of the state dict, which random floats do not reach."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Function, Net, free, normal

_NAMES = ("a.weight", "a.bias", "h.weight", "h.bias")


def attacks() -> Iterator[Attack]:
    """Yield integer buffers that one model reads in another way, then complex and integer tensors that are exchanged."""
    order = {"order": torch.arange(8)}
    yield _read("a permutation, or its inverse", order, lambda h, m: h[..., m.order],
                lambda h, m: h[..., m.order.argsort()])  # fmt: skip
    yield _read("a permutation that is not read", order, lambda h, m: h[..., m.order], lambda h, m: h)
    yield _read("a permutation, by index_select, backwards", order, lambda h, m: h.index_select(-1, m.order),
                lambda h, m: torch.zeros_like(h).index_copy(-1, m.order, h))  # fmt: skip
    yield _read("a mask of bools that is not read", {"keep": torch.ones(8, dtype=torch.bool)},
                lambda h, m: torch.tanh(torch.tanh(h) * m.keep), lambda h, m: torch.tanh(torch.tanh(h)))  # fmt: skip
    yield _read("a count that is not read", {"count": torch.tensor(1)}, lambda h, m: torch.tanh(torch.tanh(h) / m.count),
                lambda h, m: torch.tanh(torch.tanh(h)))  # fmt: skip
    yield _read(
        "a shift of 0", {"shift": torch.zeros(8, dtype=torch.long)}, lambda h, m: h + m.shift, lambda h, m: h - m.shift
    )
    yield _read(
        "a scale of ones, squared",
        {"times": torch.ones(8, dtype=torch.int32)},
        lambda h, m: torch.tanh(torch.tanh(h) * m.times),
        lambda h, m: torch.tanh(torch.tanh(h) * m.times**2),
    )
    for name, (buffers, one_way, other_way) in (_BY_PYTHON | _TOGETHER).items():
        yield _read(name, buffers, one_way, other_way)
    one = {"low": torch.zeros(8, dtype=torch.long), "high": torch.zeros(8, dtype=torch.long)}
    yield _exchanged("two integer buffers exchanged", one, lambda h, m: (h + m.low) * (1 + m.high))
    yield _exchanged("two permutations exchanged", {"low": torch.arange(8), "high": torch.arange(8)},
                     lambda h, m: torch.tanh(h[..., m.low])[..., m.high] + h[..., m.low])  # fmt: skip
    yield _exchanged("two complex weights exchanged", {name: torch.ones(5, dtype=torch.cfloat) for name in ("low", "high")},
                     lambda h, m: _filtered(torch.tanh(_filtered(h, m.low)), m.high))  # fmt: skip
    yield from _complex()


def _window(h: Tensor, m: Any) -> Tensor:
    low, high = int(m.window[0]), int(m.window[1])
    return F.pad(h[..., low:high], (0, 8 - high + low))


_ORDER = {"order": torch.arange(8)}
# Buffers that code reads as numbers of Python, which leave nothing in a graph.
_BY_PYTHON: dict[str, tuple[Mapping[str, Tensor], Function, Function]] = {
    "a permutation as a list, not read": (_ORDER, lambda h, m: h[..., m.order.tolist()], lambda h, _: h),
    "a permutation by numpy, not read": (_ORDER, lambda h, m: h[..., m.order.numpy().copy()], lambda h, _: h),
    "a permutation as a list, backwards": (
        _ORDER,
        lambda h, m: h[..., m.order.tolist()],
        lambda h, m: h[..., m.order.argsort().tolist()],
    ),
    "a window that is not read": ({"window": torch.tensor([0, 8])}, _window, lambda h, _: h),
    "a pointer that is not read": (
        {"pointer": torch.zeros(1, dtype=torch.long)},
        lambda h, m: h + torch.arange(4).to(h)[int(m.pointer) % 4],
        lambda h, m: h + torch.arange(4).to(h)[0],
    ),
    "a permutation by index_select, or arange": (
        _ORDER,
        lambda h, m: h.index_select(-1, m.order),
        lambda h, _: h.index_select(-1, torch.arange(8)),
    ),
    "a count beyond a number": (
        {"calls": torch.tensor(0)}, lambda h, m: h, lambda h, m: h if int(m.calls) < 1000 else 3 * h
    ),
    "a switch that is not read": ({"on": torch.tensor(True)}, lambda h, m: h if bool(m.on) else -h, lambda h, _: h),
}  # fmt: skip

_ORDERS = {"order": torch.arange(8), "places": torch.arange(8)}
# Buffers of which several, or one number by itself, have to change before two models part.
_TOGETHER: dict[str, tuple[Mapping[str, Tensor], Function, Function]] = {
    "two permutations, composed the other way": (
        _ORDERS,
        lambda h, m: torch.tanh(h[..., m.order]) + h[..., m.order[m.places]],
        lambda h, m: torch.tanh(h[..., m.order]) + h[..., m.places[m.order]],
    ),
    "two permutations, in the other order": (
        _ORDERS,
        lambda h, m: torch.tanh(h[..., m.order]) + h[..., m.order.tolist()][..., m.places.tolist()],
        lambda h, m: torch.tanh(h[..., m.order]) + h[..., m.places.tolist()][..., m.order.tolist()],
    ),
    "the last part of a version": (
        {"version": torch.tensor([1, 2, 3])},
        lambda h, m: h * (m.version[:2].sum() + 1),
        lambda h, m: h * (m.version[:2].sum() + 1 + (m.version[2] > 9)),
    ),
    "another of three switches": (
        {"switches": torch.tensor([True, False, True])},
        lambda h, m: 2 * h if bool(m.switches[1]) and not bool(m.switches[0]) else h,
        lambda h, m: 2 * h if bool(m.switches[1]) and not bool(m.switches[2]) else h,
    ),
    "two switches at once": (
        {"first": torch.tensor(False), "second": torch.tensor(False)},
        lambda h, m: -h if bool(m.first) and bool(m.second) else h,
        lambda h, m: 2 * h if bool(m.first) and bool(m.second) else h,
    ),
}  # fmt: skip


def _train(model: Any) -> None:
    for name, value in (
        ("places", [0, 2, 1, 4, 3, 5, 6, 7]), ("version", [1, 2, 12]), ("switches", [0, 1, 1]), ("first", 1), ("second", 1),
        ("order", [3, 0, 1, 2, 4, 6, 7, 5]), ("keep", [1, 0] * 4), ("shift", range(8)), ("times", [1, 2] * 4), ("count", 3),
        ("window", [1, 7]), ("pointer", [2]), ("calls", 2000), ("on", 0),
        ("low", [3, 0, 1, 2, 4, 6, 7, 5]), ("high", [7, 6, 5, 4, 0, 1, 2, 3]),
    ):  # fmt: skip
        tensor = getattr(model, name, None)
        if isinstance(tensor, Tensor) and not tensor.is_complex():
            tensor.copy_(torch.as_tensor(list(value) if not isinstance(value, int) else value).to(tensor))


def _read(name: str, buffers: Mapping[str, Tensor], one: Function, other: Function) -> Attack:
    return Attack(
        name, lambda: Net(one, **buffers), lambda: Net(other, **buffers), normal(2, 8), normal(3, 8, seed=1), train=_train,
        names=tuple(buffers),
    )  # fmt: skip


def _exchanged(name: str, buffers: Mapping[str, Tensor], function: Function) -> Attack:
    build = lambda: Net(function, **buffers)  # noqa: E731 -- used twice
    keys = {key: key for key in _NAMES} | {"low": "high", "high": "low"}
    return Attack(name, build, build, normal(2, 8), normal(3, 8, seed=1), train=_train, keys=keys, wrong=("low", "high"),
                  names=("low", "high"))  # fmt: skip


def _filtered(h: Tensor, weight: Tensor) -> Any:
    return torch.fft.irfft(torch.fft.rfft(h) * weight, n=8)


def _complex() -> Iterator[Attack]:
    layers = {"a": lambda: nn.Linear(8, 8)}
    weight = {"w": nn.Parameter(torch.ones(5, dtype=torch.cfloat))}
    yield free(
        "a complex weight, conjugated",
        lambda m, x: _filtered(m.a(x), m.w),
        lambda m, x: _filtered(m.a(x), m.w.conj()),
        layers,
        normal(2, 8),
        normal(3, 8, seed=1),
        weight,
    )
    yield free(
        "the real part of a complex weight",
        lambda m, x: _filtered(m.a(x), m.w),
        lambda m, x: _filtered(m.a(x), m.w.real),
        layers,
        normal(2, 8),
        normal(3, 8, seed=1),
        weight,
    )
    buffer = {"w": torch.ones(5, dtype=torch.cfloat)}
    yield free("a complex buffer that is not read", lambda m, x: _filtered(m.a(x), m.w), lambda m, x: m.a(x), layers,
               normal(2, 8), normal(3, 8, seed=1), buffer)  # fmt: skip
