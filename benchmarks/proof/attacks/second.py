"""Second inputs: memories and texts with lengths of their own, and what stands for a whole batch."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.proof.attacks.attack import Attack, Build, Draw, free, numbers

_LAYERS: dict[str, Build] = {"a": lambda: nn.Linear(8, 8), "e": lambda: nn.Embedding(64, 8), "h": lambda: nn.Linear(8, 4)}
Cut = Callable[[Tensor], Tensor]


def attacks() -> Iterator[Attack]:
    """Yield cuts of a second input, by kinds of inputs and of cuts; then one for all samples against one for each."""
    for kind, (function, example, probe) in _KINDS.items():
        for name, cut in _CUTS.items():
            yield free(f"{kind}: {name}", partial(_function, function, lambda y: y), partial(_function, function, cut),
                       _LAYERS, example, probe)  # fmt: skip
    for name, (function, cut, example, probe) in _FOR_ALL.items():
        yield free(
            name, partial(_function, function, lambda y: y), partial(_function, function, cut), _LAYERS, example, probe
        )


def _function(function: Callable[..., Any], cut: Cut, m: Any, x: Tensor, y: Tensor) -> Any:
    return function(m, x, cut(y))


def _reads(m: Any, x: Tensor, memory: Tensor) -> Any:
    return m.h(m.a(x) + m.a(memory).mean(1, keepdim=True))


def _attends(m: Any, x: Tensor, memory: Tensor) -> Any:
    return m.h((m.a(x) @ memory.mT).softmax(-1) @ memory)


def _describes(m: Any, image: Tensor, ids: Tensor) -> Any:
    return m.h(m.a(image.mean((2, 3))) + m.e(ids).mean(1))


def _translates(m: Any, ids: Tensor, memory: Tensor) -> Any:
    return m.h(m.e(ids) + m.e(memory).mean(1, keepdim=True))


def _floats(*shapes: tuple[int, ...]) -> Draw:
    return lambda: tuple(torch.randn(shape, generator=torch.Generator().manual_seed(3)) for shape in shapes)


_CUTS: dict[str, Cut] = {
    "the first 16": lambda y: y[:, :16],
    "the last 24": lambda y: y[:, -24:],
    "an even number": lambda y: y[:, : (y.shape[1] + 1) // 2 * 2 - 1],
}
_KINDS: dict[str, tuple[Callable[..., Any], Draw, Draw]] = {
    "a memory that is read": (_reads, _floats((2, 6, 8), (2, 5, 8)), _floats((2, 6, 8), (2, 40, 8))),
    "a memory of one position": (_reads, _floats((2, 6, 8), (2, 1, 8)), _floats((2, 6, 8), (2, 40, 8))),
    "a memory that is attended to": (_attends, _floats((2, 6, 8), (2, 5, 8)), _floats((2, 6, 8), (2, 40, 8))),
    "a text beside an image": (_describes, lambda: (torch.randn(2, 8, 6, 6), numbers(64, 2, 5)),
                               lambda: (torch.randn(2, 8, 6, 6), numbers(64, 2, 40))),
    "ids beside ids": (_translates, lambda: (numbers(64, 2, 6), numbers(64, 2, 5)),
                       lambda: (numbers(64, 2, 6), numbers(64, 2, 40))),
}  # fmt: skip

_FOR_ALL: dict[str, tuple[Callable[..., Any], Cut, Draw, Draw]] = {
    "positions of the first sample": (
        lambda m, x, y: m.h(m.a(x) + m.e(y)), lambda y: y[:1],
        lambda: (torch.randn(2, 6, 8), torch.arange(6)[None]),
        lambda: (torch.randn(2, 6, 8), torch.stack([torch.arange(6), torch.arange(6, 12)]))),
    "a context of the first sample": (
        _attends, lambda y: y[:1], _floats((2, 6, 8), (1, 5, 8)), _floats((2, 6, 8), (2, 5, 8))),
    "a timestep of the first sample": (
        lambda m, x, t: m.h(m.a(x) * t.reshape(-1, 1)), lambda t: t.flatten()[:1],
        lambda: (torch.randn(2, 8), torch.tensor(2.0)),
        lambda: (torch.randn(2, 8), torch.tensor([1.0, 2.0]))),
}  # fmt: skip
