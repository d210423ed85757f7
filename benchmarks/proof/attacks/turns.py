"""Decisions that turn where no draw comes: by other numbers, by what Python makes of numbers, and by what is called before.

Both models ask something of their input, and only one of them asks it, or the two ask for other numbers: whatever is far
from both is one function. The probe lies between the two.
"""

import bisect
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Build, Free, free, numbers

_LAYERS: Mapping[str, Build] = {
    "e": lambda: nn.Embedding(300, 8),
    "a": lambda: nn.Linear(8, 8),
    "h": lambda: nn.Linear(8, 4),
}
_EFFECTS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda h: -2 * h,
    lambda h: h.flip(-1),
    lambda h: h - h.mean(-1, keepdim=True),
)
Condition = Callable[[Any], Any]


def _floats(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _with(measure: Callable[[Tensor], Tensor], value: float, power: float = 1.0) -> Tensor:
    """Return numbers of which a measure, of some power of their scale, has a value."""
    x = _floats(2, 6, 8)
    scaled: Tensor = x * (value / measure(x)) ** (1 / power)
    return scaled


def _start(m: Any, x: Tensor) -> Tensor:
    h: Tensor = torch.tanh(m.a(x if x.is_floating_point() else m.e(x)))
    return h


def _model(condition: Condition | None, effect: int) -> Callable[..., Any]:
    change = _EFFECTS[effect % len(_EFFECTS)]

    def forward(m: Any, x: Tensor) -> Any:
        h = _start(m, x)
        return m.h(change(h) if condition is not None and bool(condition(x)) else h)

    return forward


def _case(name: str, one: Condition | None, other: Condition, effect: int, probe: Tensor) -> Attack:
    example = torch.randn(2, 6, 8) if probe.is_floating_point() else numbers(300, 2, 6)
    return free(name, _model(one, effect), _model(other, effect), _LAYERS, lambda: (example,), lambda: (probe,))


def attacks() -> Iterator[Attack]:
    """Yield all attacks of the kind."""
    effects = count()
    for name, (one, other, probe) in _BETWEEN.items():
        yield _case(name, one, other, next(effects), probe)
    for name, (condition, probe) in {**_PYTHON, **_LENGTHS}.items():
        yield _case(name, None, condition, next(effects), probe)
    yield from _calls()
    yield from _beside()
    yield from _rare()
    yield from _labels()


_BETWEEN: dict[str, tuple[Condition, Condition, Tensor]] = {
    "a spread above 2, or above 2.5": (lambda x: x.std() > 2, lambda x: x.std() > 2.5, _with(Tensor.std, 2.2)),
    "a number of Python above 50, or 60": (
        lambda x: float(x.pow(2).mean()) > 50,
        lambda x: float(x.pow(2).mean()) > 60,
        _with(lambda x: x.pow(2).mean(), 55, 2),
    ),
    "a norm from 90 to 95, or 100": (
        lambda x: 90 < x.norm() < 95,
        lambda x: 90 < x.norm() < 100,
        _with(Tensor.norm, 97),
    ),
    "a sum that no draw reaches, by other numbers": (
        lambda x: x.pow(4).sum() > 1e20,
        lambda x: x.pow(4).sum() > 1e21,
        _with(lambda x: x.pow(4).sum(), 3e20, 4),
    ),
    "two samples apart by 6, or 9": (
        lambda x: (x[0] - x[-1]).abs().max() > 6,
        lambda x: (x[0] - x[-1]).abs().max() > 9,
        torch.stack([_floats(6, 8), _floats(6, 8) + 7]),
    ),
    "more than 20 large ones, or 20": (
        lambda x: (x > 0.5).sum() > 20,
        lambda x: (x > 0.5).sum() >= 20,
        torch.cat([torch.ones(20), -torch.ones(76)]).reshape(2, 6, 8).double(),
    ),
    "ids that sum to 1000, or 1100": (lambda i: i.sum() > 1000, lambda i: i.sum() > 1100, torch.full((2, 6), 87)),
    "an area of 5000, or 5100": (
        lambda x: x.shape[1] * x.shape[1] > 5000,
        lambda x: x.shape[1] * x.shape[1] > 5100,
        _floats(1, 71, 8),
    ),
}
_PYTHON: dict[str, tuple[Condition, Tensor]] = {
    "a logarithm": (lambda x: math.log(x.abs().max().item() + 1) > 12, _floats(2, 6, 8) * 1e6),
    "a root of math": (lambda x: math.sqrt(x.abs().max().item()) > 1e4, _floats(2, 6, 8) * 1e9),
    "a power of Python": (lambda x: x.abs().max().item() ** 0.5 > 1e4, _floats(2, 6, 8) * 1e9),
    "a rounded mean": (lambda x: round(x.mean().item()) == 17, torch.full((2, 6, 8), 17.2).double()),
    "tens": (lambda x: x.abs().max().item() // 10 == 777, torch.full((2, 6, 8), 7775.0).double()),
    "a place among numbers": (lambda x: bisect.bisect([1e5, 1e6], x.abs().max().item()) > 1, _floats(2, 6, 8) * 1e8),
    "an array of numpy": (lambda x: (abs(x.detach().numpy()) > 1e6).any(), _floats(2, 6, 8) * 1e8),
    "a sorted list": (lambda x: sorted(x[0, 0].tolist())[-1] > 1e5, _floats(2, 6, 8) * 1e6),
    "close to a number": (
        lambda x: math.isclose(x.mean().item(), 3.25, abs_tol=0.1),
        torch.full((2, 6, 8), 3.25).double(),
    ),
    "a set of ids": (lambda i: int(i[0, 0]) in {17, 222}, torch.full((2, 6), 17)),
    "two ids in turn": (lambda i: tuple(i[0, :2].tolist()) == (4, 9), torch.tensor([[4, 9, 1, 1, 1, 1]] * 2)),
}
_LENGTHS: dict[str, tuple[Condition, Tensor]] = {
    "bits of a length": (lambda x: x.shape[1].bit_length() > 9, _floats(1, 600, 8)),
    "a logarithm of a length": (lambda x: math.log2(x.shape[1]) > 9.2, _floats(1, 700, 8)),
    "digits of a length": (lambda x: len(str(x.shape[1])) > 3, _floats(1, 1001, 8)),
    "a power of a length": (lambda x: x.shape[1] ** 2 > 10**6, _floats(1, 1001, 8)),
    "a set of lengths": (lambda x: x.shape[1] in {37, 211}, _floats(1, 37, 8)),
    "a length that is shifted": (lambda x: x.shape[1] >> 5 == 2, _floats(1, 70, 8)),
    "a fraction of a length": (lambda x: math.ceil(x.shape[1] / 13) == 3, _floats(1, 30, 8)),
    "three pieces": (lambda x: len(x.split(100, dim=1)) == 3, _floats(1, 250, 8)),
    "steps of a range": (lambda x: list(range(0, x.shape[1], 100))[-1] == 200, _floats(1, 250, 8)),
    "a batch above 64": (lambda x: len(x) > 64, _floats(70, 2, 8)),
}


# -- calls ----------------------------------------------------------------------------------------------------------------


class _Heeding(nn.Module):
    """Two layers and a forward that takes more than the example has; `other` says which of two things it does with it."""

    def __init__(self, other: bool) -> None:
        super().__init__()
        self.a, self.h, self.other = nn.Linear(8, 8), nn.Linear(8, 4), other


class _Shifted(_Heeding):
    def forward(self, x: Tensor, shifts: tuple[int, int] = (0, 0)) -> Any:
        return self.h(torch.tanh(self.a(x)).roll(shifts if self.other else shifts[::-1], (1, 2)))


class _Worded(_Heeding):
    def forward(self, x: Tensor, **words: Any) -> Any:
        return self.h(torch.tanh(self.a(x)) * (words.get("scale", 1.0) if self.other else 1.0))


class _Summed(_Heeding):
    def forward(self, *xs: Tensor) -> Any:
        h = torch.tanh(self.a(torch.stack(xs))).sum(0)
        return self.h(-h if self.other and len(xs) > 2 else h)


class _Batched(_Heeding):
    def forward(self, batch: dict[str, Tensor]) -> Any:
        h = torch.tanh(self.a(batch["x"]))
        if "mask" in batch:
            h = h * (batch["mask"] if self.other else 1 - batch["mask"])[..., None]
        return self.h(h)


class _Activated(_Heeding):
    def forward(self, x: Tensor, act: Callable[[Tensor], Tensor] = torch.tanh) -> Any:
        return self.h(act(self.a(x)) if self.other else torch.tanh(self.a(x)))


def _calls() -> Iterator[Attack]:
    x = _floats(2, 6, 8)
    mask = torch.tensor([[1, 1, 0, 1, 1, 0]] * 2)
    single: Callable[[], Any] = lambda: (torch.randn(2, 6, 8),)  # noqa: E731 -- of several cases
    cases: dict[str, tuple[type[nn.Module], Callable[[], Any], Any]] = {
        "a tuple that is left out": (_Shifted, single, (x, (1, 0))),
        "a word that is left out": (_Worded, single, {"x": x, "scale": 2.0}),
        "one more tensor": (_Summed, lambda: (torch.randn(2, 8),) * 2, (_floats(2, 8),) * 3),
        "a key of a dict": (_Batched, lambda: ({"x": torch.randn(2, 6, 8)},), ({"x": x, "mask": mask},)),
        "a function": (_Activated, single, (x, torch.sin)),
    }
    for name, (model, example, probe) in cases.items():
        yield Attack(name, partial(model, False), partial(model, True), example, partial(_same, probe))
    for name, (condition, value) in _LAYOUTS.items():
        yield _case(name, None, condition, 0, value)


def _same(value: Any) -> Any:
    return value


_LAYOUTS: dict[str, tuple[Condition, Tensor]] = {
    "a part of a larger tensor": (lambda x: x.storage_offset() > 0, _floats(3, 6, 8)[1:]),
    "one row for all": (lambda x: x.stride(0) == 0, _floats(1, 6, 8).expand(3, -1, -1)),
}


# -- outputs, chance, scripts, labels --------------------------------------------------------------------------------------


@torch.jit.script
def _turned_at_37(h: Tensor) -> Tensor:
    if h.shape[1] == 37:
        return -h
    return h


def _beside() -> Iterator[Attack]:
    """Yield a soft bound that is far, and code that is scripted."""
    yield free(
        "a soft bound of 1e9", lambda m, x: m.h(m.a(x)), lambda m, x: m.h(1e9 * torch.tanh(m.a(x) / 1e9)), _LAYERS,
        lambda: (torch.randn(2, 6, 8),), lambda: (_floats(2, 6, 8) * 1e9,),
    )  # fmt: skip
    yield free(
        "a script that asks for a length", lambda m, x: m.h(m.a(x)), lambda m, x: m.h(_turned_at_37(m.a(x))), _LAYERS,
        lambda: (torch.randn(2, 6, 8),), lambda: (_floats(1, 37, 8),),
    )  # fmt: skip
    mask = (torch.randn(2, 6) > 0).long()
    yield free(
        "a mask below 0", lambda m, x, y: m.h(torch.tanh(m.a(x)) * y[..., None]), _absolute, _LAYERS,
        lambda: (torch.randn(2, 6, 8), mask), lambda: (_floats(2, 6, 8), -mask),
    )  # fmt: skip

    yield free(
        "a length that two tensors of values have", partial(_counted, turned=False), partial(_counted, turned=True), _LAYERS,
        lambda: (torch.randn(2, 6, 8), torch.tensor(6)), lambda: (_floats(2, 6, 8), torch.tensor(41)),
    )  # fmt: skip


def _absolute(m: Any, x: Tensor, y: Tensor) -> Any:
    return m.h(torch.tanh(m.a(x)) * (y if int(y.min()) >= 0 else -y)[..., None])


def _counted(m: Any, x: Tensor, y: Tensor, *, turned: bool) -> Any:
    h = m.a(x)
    length = (torch.arange(100)[:y] + torch.arange(100)[:y]).numel()
    return m.h(-h if turned and length == 41 else h)


def _rare() -> Iterator[Attack]:
    """Yield chance that is rarely met: under most seeds nothing shows."""

    def gate(m: Any, x: Tensor) -> Any:
        h = m.a(x)
        return m.h(h * (torch.rand(len(x), 1, 1, dtype=h.dtype) > 1e-3))

    yield free(
        "a gate that rarely closes", lambda m, x: m.h(m.a(x)), gate, _LAYERS, lambda: (torch.randn(2, 6, 8),),
        lambda: (_floats(20_000, 1, 8),),
    )  # fmt: skip
    yield free(
        "a dropout that is never off, and rare", lambda m, x: m.h(m.a(x)), lambda m, x: m.h(F.dropout(m.a(x), 1e-3)),
        _LAYERS, lambda: (torch.randn(2, 6, 8),), lambda: (_floats(20_000, 1, 8),),
    )  # fmt: skip


def _labels() -> Iterator[Attack]:
    """Yield layers that move the output where no draw comes: they are not inert."""
    layers: Mapping[str, Build] = {
        "a": lambda: nn.Linear(8, 5),
        "c": lambda: nn.Linear(8, 5),
        "e": lambda: nn.Embedding(300, 8),
        "b": lambda: nn.Linear(8, 8),
    }
    far = partial(Free, lambda m, x: m.a(x) + m.c(x) * (x.amax(-1, keepdim=True) > 1e5), layers)
    twice = partial(
        Free, lambda m, i: m.e(i) + m.b(m.e(i)) * ((i[:, :1] == i[:, 1:2]) & (i[:, :1] == i[:, 2:3]))[..., None], layers
    )
    yield Attack("behind a step at 1e5", far, far, lambda: (torch.randn(2, 6, 8),), lambda: (_floats(2, 6, 8) * 1e7,),
                 moves=("c.weight", "c.bias"))  # fmt: skip
    yield Attack("behind three equal ids", twice, twice, lambda: (numbers(300, 2, 6),), lambda: (torch.full((2, 6), 77),),
                 moves=("b.weight", "b.bias"))  # fmt: skip
