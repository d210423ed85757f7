"""Decisions of code, by values, by sizes, and by the manner of the call: the models part where it goes the other way.

Every condition stands with every input that it can be asked of, and the effect changes from case to case.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.proof.attacks.attack import Attack, Build, free, numbers

_LAYERS: Mapping[str, Build] = {
    "e": lambda: nn.Embedding(300, 8),
    "a": lambda: nn.Linear(8, 8),
    "h": lambda: nn.Linear(8, 4),
}
# What the code does where its condition holds.
_EFFECTS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda h: 2 * h,
    lambda h: h.flip(-1),
    lambda h: h - h.mean(-1, keepdim=True),
    lambda h: h.flip(1),
    lambda h: h.roll(1, 1),
)
# Those that show on one position, too.
_ANYWHERE = 3


def _floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def _like(value: Tensor) -> Tensor:
    """Return what a user gives as an example: random numbers in single precision."""
    return torch.randn(2, *value.shape[1:])


def _case(name: str, condition: Callable[[Any], Any], effect: int, example: Tensor, probe: Tensor) -> Attack:
    change = _EFFECTS[effect]

    def start(m: Any, x: Tensor) -> Tensor:
        h: Tensor = torch.tanh(m.a(x if x.is_floating_point() else m.e(x)))
        return h

    def changed(m: Any, x: Tensor) -> Any:
        h = start(m, x)
        return m.h(change(h) if bool(condition(x)) else h)

    return free(name, lambda m, x: m.h(start(m, x)), changed, _LAYERS, lambda: (example,), lambda: (probe,))


def values() -> Iterator[Attack]:
    """Yield attacks by what the values of an input are."""
    x, effects = _floats(3, 6, 8), (place % _ANYWHERE for place in count())
    for name, (condition, probe) in _FLOATS.items():
        yield _case(f"numbers {name}", condition, next(effects), _like(x), probe(x))
    ids = numbers(299, 2, 6) + 1
    for name, (condition, probe) in _IDS.items():
        yield _case(f"ids {name}", condition, next(effects), ids, probe(ids.clone()))
    for place, (name, (condition, probe)) in enumerate(_EVEN.items()):
        yield _case(f"numbers {name}", condition, 3 + place % 2, _like(x), probe(x))
    for place, (name, (condition, probe)) in enumerate(_EVEN_IDS.items()):
        yield _case(f"ids {name}", condition, 3 + place % 2, ids, probe(ids.clone()))
    yield from _masks()


def _first(x: Tensor, value: float, axis: int, place: int = 0) -> Tensor:
    """Return numbers with one value at one place of an axis."""
    changed = x.clone()
    changed.select(axis, place).fill_(value)
    return changed


# What even numbers meet as well (all 0, all 1, all equal), and there what happens to positions shows nothing.
_EVEN: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor]]] = {
    "with equal first and last steps": (
        lambda x: (x[:, 0] == x[:, -1]).all(), lambda x: torch.cat([x[:, :5], x[:, :1]], 1)
    ),
    "with equal steps at both ends, by torch.equal": (
        lambda x: torch.equal(x[:, 0], x[:, -1]), lambda x: torch.cat([x[:, :5], x[:, :1]], 1)
    ),
    "with equal steps at both ends, as lists": (
        lambda x: x[:, 0].tolist() == x[:, -1].tolist(), lambda x: torch.cat([x[:, :5], x[:, :1]], 1)
    ),
    "with a leading step of 0": (lambda x: (x[:, 0] == 0).all(), lambda x: _first(x, 0, 1)),
    "with a last step of 0": (lambda x: (x[:, -1] == 0).all(), lambda x: _first(x, 0, 1, -1)),
    "with a channel of 1": (lambda x: (x[..., 3] == 1).all(), lambda x: _first(x, 1, 2, 3)),
    "of equal channels": (lambda x: (x == x[..., :1]).all(), lambda x: x[..., :1].expand(3, 6, 8).contiguous()),
    "of -1 and 1": (lambda x: (x.abs() == 1).all(), torch.sign),
    "with a channel that is the same for all steps": (
        lambda x: (x[..., 3] == x[:, :1, 3]).all(),
        lambda x: torch.cat([x[..., :3], x[:, :1, 3:4].expand(3, 6, 1), x[..., 4:]], 2),
    ),
}  # fmt: skip
_EVEN_IDS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor]]] = {
    "of an upper range": (lambda i: (i >= 250).all(), lambda i: 250 + i % 50),
    "with 2 at the end": (lambda i: (i[:, -1] == 2).all(), lambda i: _first(i, 2, 1, -1)),
    "with 1 in front": (lambda i: (i[:, 0] == 1).all(), lambda i: _first(i, 1, 1)),
    "with the same at both ends": (lambda i: torch.equal(i[:, 0], i[:, -1]), lambda i: torch.cat([i[:, :5], i[:, :1]], 1)),
}

_FLOATS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor]]] = {
    "from 0 to 1": (lambda x: x.min() >= 0 and x.max() <= 1, torch.sigmoid),
    "all negative": (lambda x: x.max() < 0, lambda x: -x.abs()),
    "whole": (lambda x: torch.equal(x, x.round()), lambda x: (3 * x).round()),
    "of unit vectors": (lambda x: (x.norm(dim=-1) - 1).abs().max() < 1e-6, lambda x: x / x.norm(dim=-1, keepdim=True)),
    "with a row of 0": (lambda x: (x == 0).all(-1).any(), lambda x: x * (torch.arange(6) < 4)[:, None]),
    "the same in all samples": (lambda x: len(x) > 1 and torch.equal(x[0], x[-1]), lambda x: x[:1].expand(3, -1, -1)),
    "of a spread, as numbers of Python": (lambda x: 5 < x.std().item() < 50, lambda x: 10 * x),
    "with one in particular": (lambda x: (x == 0.125).any(), lambda x: torch.full_like(x, 0.125)),
    "in a list": (lambda x: 0.5 in x[0, 0].tolist(), lambda x: torch.full_like(x, 0.5)),
    "of numpy": (lambda x: (x.detach().numpy() > 7.5).mean() > 0.5, lambda x: x + 20),
    "tiny": (lambda x: x.abs().max() < 0.01, lambda x: x * 1e-4),
    "rising": (lambda x: (x[:, 1:] >= x[:, :-1]).all(), lambda x: x.sort(1)[0]),
    "at places that a loop goes through": (lambda x: any(True for _ in (x.abs() > 5e4).nonzero()), lambda x: 1e6 * x),
    "chosen into a list": (lambda x: x[x > 7e4].tolist() != [], lambda x: 1e6 * x.abs()),
}
_IDS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor]]] = {
    "all equal": (lambda i: (i == i[0, 0]).all(), lambda i: torch.full_like(i, 5)),
    "sorted": (lambda i: (i[:, 1:] >= i[:, :-1]).all(), lambda i: i.sort(1)[0]),
    "padded on the left": (lambda i: (i[:, 0] == 0).any(), lambda i: i * (torch.arange(6) > 1)),
    "padded on the right": (lambda i: (i[:, -1] == 0).all(), lambda i: i * (torch.arange(6) < 4)),
    "with a special one": (lambda i: (i == 102).any(), lambda i: torch.full_like(i, 102)),
    "with a special one, in a list": (lambda i: 101 in i[0].tolist(), lambda i: torch.full_like(i, 101)),
    "of few kinds": (lambda i: len(set(i.flatten().tolist())) < 4, lambda i: torch.full_like(i, 9)),
    "with the same first one": (lambda i: len(i) > 1 and int(i[0, 0]) == int(i[1, 0]), lambda i: i[:1].expand(2, -1)),
}


def _masks() -> Iterator[Attack]:
    ids, holes = numbers(300, 2, 6), torch.tensor([[1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
    for effect, (name, (condition, probe)) in enumerate(_MASKED.items()):
        yield free(
            f"mask {name}", _masked(None, effect), _masked(condition, effect), _LAYERS, lambda: (ids, holes),
            partial(_with_mask, ids, probe),
        )  # fmt: skip


def _with_mask(ids: Tensor, mask: list[list[int]]) -> tuple[Tensor, Tensor]:
    return ids, torch.tensor(mask)


def _masked(condition: Callable[[Tensor], Any] | None, effect: int) -> Callable[..., Any]:
    change = _EFFECTS[effect % _ANYWHERE]

    def forward(m: Any, i: Tensor, mask: Tensor) -> Any:
        h = torch.tanh(m.a(m.e(i))) * mask[..., None]
        return m.h(change(h) if condition is not None and bool(condition(mask)) else h)

    return forward


_MASKED: dict[str, tuple[Callable[[Tensor], Any], list[list[int]]]] = {
    "without a hole": (lambda mask: mask.all(), [[1] * 6] * 2),
    "with an empty row": (lambda mask: (mask.sum(1) == 0).any(), [[0] * 6, [1] * 6]),
    "padded on the left": (lambda mask: (mask[:, 0] == 0).any(), [[0, 0, 1, 1, 1, 1], [1] * 6]),
    "of few, as a number of Python": (lambda mask: int(mask.sum()) < 4, [[1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]),
    "of one length": (lambda mask: (mask.sum(1) == mask.sum(1)[0]).all(), [[1, 1, 1, 0, 0, 0]] * 2),
    "of counts": (lambda mask: mask.max() > 1, [[1, 1, 2, 2, 3, 3]] * 2),
}


def sizes() -> Iterator[Attack]:
    """Yield attacks by the sizes of an input: divisible, equal, long, many, narrow."""
    for effect, (name, (condition, shape)) in enumerate(_SIZES.items()):
        probe = _floats(*shape)
        yield _case(f"{name}", condition, effect % _ANYWHERE, torch.randn(2, 6, 8), probe)


Sizes = tuple[Callable[[Tensor], bool], tuple[int, ...]]


def _divisible(axis: int, by: int) -> Sizes:
    return (lambda x: x.shape[axis] % by == 0), (by, 6, 8) if axis == 0 else (2, 2 * by, 8)


def _longer(than: int) -> Sizes:
    return (lambda x: x.shape[1] > than), (1, than + 9, 8)


_SIZES: dict[str, Sizes] = {
    **{f"length % {by}": _divisible(1, by) for by in (4, 7, 10, 16)},
    **{f"batch % {by}": _divisible(0, by) for by in (3, 5, 8)},
    **{f"length > {than}": _longer(than) for than in (90, 400, 1000)},
    "length is the width": (lambda x: x.shape[1] == x.shape[2], (2, 8, 8)),
    "one of two lengths": (lambda x: x.shape[1] in (33, 257), (2, 33, 8)),
    "a power of two": (lambda x: x.shape[1] & (x.shape[1] - 1) == 0, (2, 8, 8)),
    "batch beyond length": (lambda x: len(x) > x.shape[1], (7, 3, 8)),
    "many samples": (lambda x: len(x) > 20, (22, 6, 8)),
    "many positions": (lambda x: x.shape[0] * x.shape[1] > 500, (1, 600, 8)),
    "many numbers": (lambda x: x.numel() > 5000, (1, 700, 8)),
    "one sample and one position": (lambda x: x.shape[0] == 1 and x.shape[1] == 1, (1, 1, 8)),
}


def calls() -> Iterator[Attack]:
    """Yield attacks by the manner of the call: dtype, layout, rank, lists, arguments."""
    ids = numbers(300, 2, 6)
    yield _case("int32", lambda i: i.dtype is torch.int32, 0, ids, ids.int())
    yield _case("no batch", lambda x: x.dim() == 2, 1, torch.randn(2, 6, 8), _floats(6, 8))
    yield _case("not contiguous", lambda x: not x.is_contiguous(), 2, torch.randn(2, 6, 8), _floats(2, 8, 6).mT)
    for name, (model, probe) in _CALLS.items():
        example = _two_in_a_list if model is _Listed else _alone
        yield Attack(name, partial(model, False), partial(model, True), example, probe)


def _two_in_a_list() -> tuple[list[Tensor]]:
    return ([torch.randn(2, 8)] * 2,)


def _alone() -> tuple[Tensor]:
    return (torch.randn(2, 6, 8),)


class _Call(nn.Module):
    """Layers, and a forward with more arguments; `other` says whether the model is the one that parts."""

    def __init__(self, other: bool) -> None:
        super().__init__()
        self.a, self.h, self.other = nn.Linear(8, 8), nn.Linear(8, 4), other

    def body(self, x: Tensor) -> Tensor:
        """Return what both models have."""
        h: Tensor = self.h(torch.tanh(self.a(x)))
        return h


class _Listed(_Call):
    def forward(self, xs: list[Tensor]) -> Any:
        h = sum(self.body(x) for x in xs)
        return -h if self.other and len(xs) > 2 else h


class _Masked(_Call):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        h = self.body(x)
        return h if mask is None else h * (mask[..., None] if not self.other else 1 - mask[..., None].long())


class _Steps(_Call):
    def forward(self, x: Tensor, steps: int = 1) -> Any:
        h = self.body(x)
        return h if steps == 1 else h * (steps if not self.other else steps + 1)


class _Mode(_Call):
    def forward(self, x: Tensor, mode: str = "mean") -> Any:
        h = self.body(x)
        return h.mean(1) if mode == "mean" else h.amax(1) if not self.other else h[:, 0]


_CALLS: dict[str, tuple[type[_Call], Callable[[], Any]]] = {
    "three in a list": (_Listed, lambda: ([_floats(2, 8)] * 3,)),
    "an argument that is left out": (_Masked, lambda: (_floats(2, 6, 8), torch.tensor([[1, 1, 0, 1, 1, 0]] * 2))),
    "a number of steps": (_Steps, lambda: (_floats(2, 6, 8), 2)),
    "a word": (_Mode, lambda: (_floats(2, 6, 8), "max")),
}
