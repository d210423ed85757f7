"""What coincides on most inputs: maps of one area, ids beside each other, places in memory, keys that matter elsewhere."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Build, Draw, Free, free, normal, numbers

_CONV: dict[str, Build] = {"a": lambda: nn.Conv2d(3, 6, 3, padding=1), "h": lambda: nn.Conv2d(6, 4, 1)}
_PATCHES: dict[str, Build] = {"a": lambda: nn.Conv2d(3, 6, 8, 8), "h": lambda: nn.Conv2d(6, 4, 1)}
_LINEAR: dict[str, Build] = {"a": lambda: nn.Linear(8, 8), "h": lambda: nn.Linear(8, 4)}
_TOKENS: dict[str, Build] = {"e": lambda: nn.Embedding(300, 8), "h": lambda: nn.Linear(8, 4)}


def attacks() -> Iterator[Attack]:
    """Yield maps, ids, places in memory, empty batches; then keys that matter at other sizes alone."""
    yield from _maps()
    for name, (turns, ids) in _IDS.items():
        yield free(f"ids: {name}", _ids(lambda i: False), _ids(turns), _TOKENS, lambda: (numbers(300, 2, 6),),
                   partial(_given, ids), names=("argument 0", "ids"))  # fmt: skip
    for name, change in _PLACES.items():
        yield free(f"a part of a larger tensor: {name}", _on(lambda x: x), _on(change), _LINEAR, normal(2, 6, 8), _part,
                   names=("contiguous", "parts"))  # fmt: skip
    yield free("no rows", lambda m, x: m.h(torch.tanh(m.a(x)).sum(0)), _or_nothing, _LINEAR, normal(5, 8), normal(0, 8),
               names=("size",))  # fmt: skip
    for label, (function, probe) in _LABELS.items():
        yield _label(label, function, probe)


def _table(m: Any, size: Any) -> Tensor:
    return F.interpolate(m.table, size, mode="bilinear")


def _by_sides(m: Any, x: Tensor) -> Any:
    h = m.a(x)
    return m.h(h + (m.table if h.shape[2:] == m.table.shape[2:] else _table(m, h.shape[2:])))


def _by_area(m: Any, x: Tensor) -> Any:
    h = m.a(x)
    alike = h[0, 0].numel() == m.table[0, 0].numel()
    return m.h(h + (m.table.reshape(1, 6, *h.shape[2:]) if alike else _table(m, h.shape[2:])))


def _maps() -> Iterator[Attack]:
    for name, layers, edge, probe in (
        ("positions", _CONV, 16, (2, 3, 8, 32)),
        ("positions of patches", _PATCHES, 4, (2, 3, 16, 64)),
        ("positions of patches, high", _PATCHES, 4, (2, 3, 64, 16)),
    ):
        size = edge if layers is _CONV else 8 * edge
        table = {"table": nn.Parameter(torch.randn(1, 6, edge, edge))}
        yield free(f"{name}, resized by the area", _by_sides, _by_area, layers, normal(1, 3, size, size),
                   normal(*probe, seed=1), table, names=("size",))  # fmt: skip


def _ids(turns: Callable[[Tensor], bool]) -> Callable[[Any, Tensor], Any]:
    return lambda m, i: m.h(torch.tanh(m.e(i.flip(1) if turns(i) else i)))


def _given(ids: list[list[int]]) -> Any:
    return (torch.tensor(ids),)


# When the ids are turned round, and ids for which they are.
_IDS: dict[str, tuple[Callable[[Tensor], bool], list[list[int]]]] = {
    "two in turn": (lambda i: [57, 58] in i.unfold(1, 2, 1)[0].tolist(), [[3, 57, 58, 2, 1, 9]]),
    "two at the ends": (lambda i: (int(i[0, 0]), int(i[0, -1])) == (101, 102), [[101, 4, 7, 2, 4, 102]]),
    "one three times": (lambda i: [False, True][int(((i == 57).sum(1) == 3).all())], [[57, 3, 57, 9, 57, 2]]),
    "three that come again": (
        lambda i: i.shape[1] > 4 and i[0, :3].tolist() == i[0, 3:6].tolist() and len(set(i[0].tolist())) > 2,
        [[2, 40, 7, 2, 40, 7]],
    ),
}


def _on(change: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Any]:
    return lambda m, x: m.h(torch.tanh(m.a(change(x))))


_PLACES: dict[str, Callable[[Tensor], Tensor]] = {
    "from the beginning of the memory": lambda x: x.as_strided(x.shape, x.stride(), 0),
    "as if its rows were dense": lambda x: x.as_strided(x.shape, (x.shape[1] * x.shape[2], x.shape[2], 1)),
}


def _part() -> Any:
    """Draw a part of a larger tensor, whose memory begins elsewhere, and whose rows are not dense."""
    return (torch.randn(4, 6, 12, dtype=torch.float64)[1:3, :, 2:10],)


def _or_nothing(m: Any, x: Tensor) -> Any:
    return m.h(torch.tanh(m.a(x)).sum(0)) if len(x) else x.new_zeros(4)


# A key that matters beyond a length, or in a few values of itself.
_LABELS: dict[str, tuple[Callable[[Any, Tensor], Any], Draw]] = {
    "a bias before a norm of one step": (
        lambda m, x: m.h(F.layer_norm(m.b(x) + m.t, (8,)) if x.shape[1] > 1 else m.b(x) + m.t), normal(2, 1, 8, seed=1)
    ),
    "a bias before a norm of a short sequence": (
        lambda m, x: m.h(F.layer_norm(m.b(x) + m.t, (8,)) if x.shape[1] < 100 else m.b(x) + m.t), normal(1, 110, 8, seed=1)
    ),
    "whether a number is even": (lambda m, x: m.h(m.b(x)) * (1 - 2 * (m.t.abs().floor() % 2)), normal(2, 6, 8, seed=1)),
}  # fmt: skip


def _label(name: str, function: Callable[[Any, Tensor], Any], probe: Draw) -> Attack:
    layers: dict[str, Build] = {"b": lambda: nn.Linear(8, 8), "h": lambda: nn.Linear(8, 4)}
    build = lambda: Free(function, layers, t=nn.Parameter(torch.full((1,), 0.3)))  # noqa: E731 -- used twice
    return Attack(name, build, build, normal(2, 6, 8), probe, moves=("t",))
