"""Arguments: what a model is called with beside tensors, in objects and containers, left out, or of other shapes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.proof.attacks.attack import Attack, normal, numbers

_HOLES = torch.tensor([[1, 1, 0, 1, 1, 0.0]] * 2)


class Between(nn.Module):
    """Two layers, with a function of the values between them and of the second argument, if it is given."""

    def __init__(self, f: Callable[..., Any] | None) -> None:
        super().__init__()
        self.a, self.h, self.f = nn.Linear(8, 8), nn.Linear(8, 4), f

    def forward(self, x: Any, c: Any = None) -> Any:
        """Compute (b, n, 4) of (b, n, 8), where f keeps shapes."""
        h = torch.tanh(self.a(x if isinstance(x, Tensor) else x.tensors))
        given = c if isinstance(x, Tensor) else x
        return self.h(h if given is None or self.f is None else self.f(h, given))


class Batch:
    """Tensors of several sizes in one, and where they are, as detectors take them."""

    def __init__(self, tensors: Tensor, mask: Tensor) -> None:
        self.tensors, self.mask = tensors, mask


@dataclass(frozen=True)
class Switches:
    """Options of a call."""

    causal: bool = False


def _floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def _between(name: str, one: Any, other: Any, example: tuple[Any, ...], probe: tuple[Any, ...]) -> Attack:
    return Attack(name, lambda: Between(one), lambda: Between(other), lambda: example, lambda: probe)


def _kept(h: Tensor, lengths: Any) -> Tensor:
    kept = torch.arange(h.shape[1]) < torch.tensor(lengths)[:, None]
    return h * kept[..., None]


def _cumulated(h: Any, lengths: Any) -> Tensor:
    return torch.cat([part.cumsum(1) for part in h.split(lengths, 1)], 1)


def attacks() -> Iterator[Attack]:
    """Yield the attacks of each kind in turn."""
    yield from _objects()
    yield from _held()
    yield from _asked_for()
    yield from _left_out()
    yield from _other_shapes()
    yield from _ids()


def _objects() -> Iterator[Attack]:
    x, wide = torch.randn(2, 6, 8), _floats(2, 6, 8)
    for name, mask in (("ones", torch.ones(2, 6)), ("holes", _HOLES)):
        for kind, holder in (("an object", Batch), ("a namespace", SimpleNamespace)):
            made: Any = holder
            yield _between(
                f"a mask of {name} in {kind}, ignored", lambda h, b: h * b.mask[..., None], lambda h, b: h,
                (made(tensors=x, mask=mask),), (made(tensors=wide, mask=_HOLES.double()),),
            )  # fmt: skip
    yield _between(
        "numbers of segments in an object beside a tensor, ignored",
        lambda h, c: h * (1 + c.ids[..., None]), lambda h, c: h * (1 + 0 * c.ids[..., None]),
        (x, SimpleNamespace(ids=torch.zeros(2, 6).long())), (wide, SimpleNamespace(ids=torch.ones(2, 6).long())),
    )  # fmt: skip


def _held() -> Iterator[Attack]:
    def held(name: str, one: Any, other: Any, example: Any, probe: Any) -> Attack:
        return _between(name, one, other, (torch.randn(2, 6, 8), example), (_floats(2, 6, 8), probe))

    yield held(
        "lengths in a list, off by one", _kept, lambda h, n: _kept(h, [k - (k < h.shape[1]) for k in n]), [6, 6], [3, 5]
    )
    yield held("lengths in a tuple, the first for all", _kept, lambda h, n: _kept(h, (n[0],) * len(n)), (6, 6), (3, 5))
    yield held(
        "sizes of images, ignored", lambda h, c: h * torch.tensor([a * b / 36 for a, b in c]).to(h)[:, None, None],
        lambda h, c: h, [(6, 6)] * 2, [(6, 3)] * 2,
    )  # fmt: skip
    yield held("lengths of a split, the first for all", _cumulated, lambda h, n: _cumulated(h, n[0]), [3, 3], [3, 2, 1])
    yield held("a number in a dict", lambda h, c: h * c["s"], lambda h, c: h * min(c["s"], 10), {"s": 1.0}, {"s": 50.0})
    yield held("a number in a tuple", lambda h, c: h * c[0], lambda h, c: h * c[0] ** 2, (1.0,), (3.0,))
    yield held("words in a list", lambda h, c: h * (1 + ("b" in c)), lambda h, c: h * (1 + 2 * ("b" in c)), ["a"], ["b"])
    yield held(
        "a switch of an object", lambda h, c: h.cumsum(1) if c.causal else h, lambda h, c: h, Switches(), Switches(True)
    )


class _Flagged(nn.Module):
    def __init__(self, attention: float, plain: float) -> None:
        super().__init__()
        self.a, self.b, self.factors = nn.Linear(8, 4), nn.Linear(8, 4), (attention, plain)

    def forward(self, x: Tensor, output_attentions: bool = False, return_dict: bool = True) -> Any:
        other = torch.tanh(self.b(x))
        found = {"logits": self.a(x) + other}
        if output_attentions:
            found["attentions"] = self.factors[0] * other
        return found if return_dict else tuple(self.factors[1] * value for value in found.values())


def _asked_for() -> Iterator[Attack]:
    for name, factors, word in (
        ("attentions, twice", (2.0, 1.0), {"output_attentions": True}),
        ("a tuple, three times", (1.0, 3.0), {"return_dict": False}),
    ):
        yield Attack(
            f"asked for: {name}", partial(_Flagged, 1.0, 1.0), partial(_Flagged, *factors), normal(2, 6, 8),
            partial(dict, x=_floats(2, 6, 8), **word),
        )  # fmt: skip


class _Masked(nn.Module):
    def __init__(self, number: float) -> None:
        super().__init__()
        self.a, self.number = nn.Linear(8, 4), number

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        return torch.tanh(self.a(x)) * (self.number if mask is None else mask[..., None])


def _left_out() -> Iterator[Attack]:
    x, wide = torch.randn(2, 6, 8), _floats(2, 6, 8)
    by_place = Attack(
        "a mask in the example, left out", partial(_Masked, 1.0), partial(_Masked, 2.0), lambda: (x, _HOLES), lambda: (wide,)
    )
    yield by_place
    yield replace(by_place, name="a mask in the example, None", probe=lambda: (wide, None))
    yield replace(by_place, name="a mask by its name, left out", example=lambda: {"x": x, "mask": _HOLES})


def _state(h: Tensor, state: Tensor) -> Tensor:
    if state.shape != (1, len(h), 8):
        raise ValueError(f"a state of shape {tuple(state.shape)}")
    return h + state.transpose(0, 1)


def _pair(h: Tensor, states: Any, which: int) -> Tensor:
    if not isinstance(states, tuple):
        raise TypeError("a pair of states is wanted")
    return _state(h, states[which])


def _attended(h: Tensor, scores: Tensor) -> Tensor:
    return (h @ h.mT + scores).softmax(-1) @ h


def _other_shapes() -> Iterator[Attack]:
    cases: dict[str, tuple[Any, Any, Any]] = {
        "a state, reversed": (_state, lambda h, c: _state(h, c.flip(-1)), _floats(1, 2, 8)),
        "two states, exchanged": (
            lambda h, c: _pair(h, c, 0), lambda h, c: _pair(h, c, 1), (_floats(1, 2, 8), -_floats(1, 2, 8)),
        ),
        "scores of all samples, transposed": (_attended, lambda h, c: _attended(h, c.mT), _floats(6, 6)),
        "scores of each sample, transposed": (
            lambda h, c: _attended(h, c[:, 0]), lambda h, c: _attended(h, c[:, 0].mT), _floats(2, 1, 6, 6),
        ),
        "keys and values, exchanged": (
            lambda h, c: h + c[0][0].mean(1, True), lambda h, c: h + c[0][1].mean(1, True),
            [(_floats(2, 3, 8), -_floats(2, 3, 8))],
        ),
        "a tensor by a word, negated": (
            lambda h, c: h + c["hidden"], lambda h, c: h - c["hidden"], {"hidden": _floats(2, 6, 8)},
        ),
    }  # fmt: skip
    for name, (one, other, given) in cases.items():
        yield _between(f"left out: {name}", one, other, (torch.randn(2, 6, 8),), (_floats(2, 6, 8), given))


class _Looked(nn.Module):
    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.e, self.f = nn.Embedding(20, 8), f

    def forward(self, i: Tensor) -> Any:
        return torch.tanh(self.e(self.f(i)))


def _ids() -> Iterator[Attack]:
    ids = numbers(20, 2, 6)
    for name, one, other, by in (
        ("below 0: their size, or clamped", _below(torch.abs), _below(lambda i: i.clamp(min=0)), -8),
        ("beyond the table: wrapped, or clamped", _beyond(lambda i: i % 20), _beyond(lambda i: i.clamp(max=19)), 8),
    ):
        yield Attack(f"ids {name}", partial(_Looked, one), partial(_Looked, other), lambda: (ids,), partial(_moved, ids, by))


def _moved(ids: Tensor, by: int) -> tuple[Tensor]:
    return (ids + by,)


def _below(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda i: change(i) if bool((i < 0).any()) else i


def _beyond(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda i: change(i) if bool((i >= 20).any()) else i
