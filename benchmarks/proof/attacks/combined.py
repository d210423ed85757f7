"""Combined: what two things decide together, such as a length and the size of values, or an option and a batch."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.proof.attacks.attack import Attack

Forward = Callable[..., Any]
Change = Callable[[Tensor], Tensor]


class _Layers(nn.Module):
    """Layers for rows and texts of 8 numbers, and for maps of 3 channels; a subclass says how they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h, self.c = nn.Linear(8, 8), nn.Linear(8, 4), nn.Conv2d(3, 4, 3, padding=1)


def _floats(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def _pair(name: str, one: Forward, other: Forward, example: tuple[int, ...], *probe: Any) -> Attack:
    def of(forward: Forward) -> Callable[[], nn.Module]:
        def built() -> nn.Module:
            made: nn.Module = type("_Made", (_Layers,), {"forward": forward})()
            return made

        return built

    return Attack(name, of(one), of(other), lambda: (torch.randn(example),), lambda: probe)


def attacks() -> Iterator[Attack]:
    """Yield sizes with values, sizes with sizes, options with both, and tensors that the example leaves out with both."""
    yield from _sizes_and_values()
    yield from _two_sizes()
    yield from _options()
    yield from _left_out()


def _if(asks: Callable[[Tensor], bool], change: Change) -> Forward:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.c(x) if x.dim() == 4 else m.a(x)
        found: Tensor = change(h) if asks(x) else h
        return found

    return forward


def _clamp(bound: float) -> Change:
    return lambda h: h.clamp(-bound, bound)


def _sizes_and_values() -> Iterator[Attack]:
    text, rows, maps = (2, 6, 8), (2, 8), (1, 3, 8, 8)
    asked: list[tuple[str, Callable[[Tensor], bool], tuple[int, ...], Tensor]] = [
        ("a longer text", lambda x: x.shape[1] > 6, text, _floats(2, 7, 8, scale=300)),
        ("one token", lambda x: x.shape[1] == 1, text, _floats(2, 1, 8, scale=300)),
        ("a larger batch", lambda x: len(x) > 6, rows, _floats(9, 8, scale=300)),
        ("a batch of one", lambda x: len(x) == 1, text, _floats(1, 6, 8, scale=300)),
        ("a larger map", lambda x: x.shape[2] > 8, maps, _floats(1, 3, 16, 16, scale=300)),
    ]
    for name, asks, example, probe in asked:
        yield _pair(f"{name}, and a bound of 30 or 60", _if(asks, _clamp(30)), _if(asks, _clamp(60)), example, probe)
        yield _pair(f"{name}, and relu6 or relu", _if(asks, F.relu6), _if(asks, F.relu), example, probe)
    tiny = _floats(2, 50, 8, scale=1e-5)
    yield _pair("a long text, and an epsilon", _normal(lambda x: 1e-3), _normal(_epsilon), text, tiny)


def _epsilon(x: Tensor) -> float:
    return 1e-3 if x.shape[1] < 41 else 1e-5


def _normal(epsilon: Callable[[Tensor], float]) -> Forward:
    return lambda m, x: m.a(F.normalize(x, dim=-1, eps=epsilon(x)))


def _two_sizes() -> Iterator[Attack]:
    def times(factor: Callable[[Tensor], int]) -> Forward:
        return lambda m, x: (m.c(x) if x.dim() == 4 else m.a(x)) * (1 + factor(x))

    one = times(lambda x: 0)
    yield _pair("a length and a batch", one, times(lambda x: x.shape[1] // 41 * (len(x) // 4)), (2, 6, 8), _floats(5, 50, 8))
    area = times(lambda x: x.shape[2] // 33 * (len(x) // 4))
    yield _pair("a map and a batch", one, area, (1, 3, 8, 8), _floats(4, 3, 40, 40))


def _options() -> Iterator[Attack]:
    def windowed(width: int) -> Forward:
        def forward(m: Any, x: Tensor, local: bool = False) -> Any:
            scores, places = m.a(x) @ x.mT, torch.arange(x.shape[1])
            far = (places[:, None] - places).abs() > width
            return (scores.masked_fill(far, -torch.inf) if local else scores).softmax(-1) @ x

        return forward

    def optional(change: Change) -> Forward:
        def forward(m: Any, x: Tensor, special: bool = False) -> Any:
            return change(m.a(x)) if special else m.a(x)

        return forward

    def cut(count: int) -> Forward:
        return optional(lambda h: h[:, :count])

    text, rows = (2, 6, 8), (2, 8)
    yield _pair("an option and a length: windows", windowed(20), windowed(30), text, _floats(2, 50, 8), True)
    yield _pair("an option and a length: cuts", cut(16), cut(24), text, _floats(2, 50, 8), True)
    yield _pair("an option and a bound", optional(_clamp(30)), optional(_clamp(60)), rows, _floats(9, 8, scale=100), True)
    first, more = optional(lambda h: h - h[:3].mean(0)), optional(lambda h: h - h[:4].mean(0))
    yield _pair("an option and a batch", first, more, rows, _floats(9, 8), True)


def _left_out() -> Iterator[Attack]:
    def added(change: Change) -> Forward:
        def forward(m: Any, x: Tensor, memory: Any = None) -> Any:
            return m.a(x) if memory is None else m.a(x) + change(memory)

        return forward

    def attending(cut: Callable[[Tensor, int], Tensor]) -> Forward:
        def forward(m: Any, x: Tensor, context: Any = None) -> Any:
            held = x if context is None else cut(context, x.shape[1])
            return (m.a(x) @ held.mT).softmax(-1) @ held

        return forward

    def positioned(last: int) -> Forward:
        def forward(m: Any, x: Tensor, position_ids: Any = None) -> Any:
            places = torch.arange(x.shape[1]) if position_ids is None else position_ids.clamp(max=last)
            return m.a(x) * places.to(x)[..., None].sin()

        return forward

    text, rows, x, y = (2, 6, 8), (2, 8), _floats(2, 6, 8), _floats(9, 8)
    yield _pair("a memory and its values: relu6", added(F.relu6), added(F.relu), rows, y, 20 * y)
    yield _pair(
        "a memory and its values: bounds", added(_clamp(30)), added(_clamp(60)), text, x, _floats(2, 6, 8, scale=200)
    )
    whole = attending(lambda c, _: c)
    for name, cut in (("than the text", lambda c, n: c[:, :n]), ("than twice the text", lambda c, n: c[:, : 2 * n])):
        yield _pair(f"a context that is longer {name}", whole, attending(cut), text, x, _floats(2, 19, 8))
    yield _pair("a context of more than 24", whole, attending(lambda c, _: c[:, -24:]), text, x, _floats(2, 40, 8))
    places = torch.arange(600, 606).expand(2, 6)
    yield _pair("positions and their numbers", positioned(10**6), positioned(511), text, x, places)
