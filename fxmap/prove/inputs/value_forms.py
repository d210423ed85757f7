"""Forms of values: what the numbers of one input may be like, by their role, in any shape.

`special` has all forms at one shape, for code that decides by values. These few are run in every shape and manner, since a
clamp, an epsilon or a tie needs no decision to tell two models apart: far beyond most bounds, between two of them, tiny, 0,
sparse, of one sign, with equal values. Of ids and masks they are those that code has cases for.

>>> [text for text, _ in forms_of(Slot("mask", Role.MASK, torch.ones(2, 3)), [])]
['without a hole', 'padded on the right', 'padded on the left', 'with an empty row', 'of every second']

Cost: none; each is one run of both models.
Source: equivalence classes and boundary values, Myers, The Art of Software Testing, 1979.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf

import torch
from torch import Tensor

from fxmap.prove.inputs.samples import Role, Slot

Form = Callable[[Tensor], Tensor]
# Between the bounds that code often has (1, 6, 10, 20, 50, 100, 300, 500), and below its epsilons.
_SCALES = (8.0, 60.0, 1e3, 1e-7)
# Numbers far above those of all other runs.
_FAR = 1e7
# How many numbers that code names are put into ids and integers: the first ones, and the largest.
_NAMED = 2
_MANY = 100_000
# What leaves little of what else decides: sums and biases hide tiny numbers, and equal ones have no order.
HIDING = frozenset({"all 0", "all equal", "repeated", f"{_SCALES[-1]:g} times as large"})
# Numbers larger than this may have no value in one spelling of a function, and one in another.
LARGE = 8.0


def forms_of(
    slot: Slot, numbers: Sequence[float], fills: Sequence[float] = (), *, few: bool = False
) -> list[tuple[str, Form]]:
    """Return forms of the values of an input.

    Args:
        slot: the input.
        numbers: those that code names.
        fills: numbers far below 0 with which scores are masked: for scores beyond these they are no masks.
        few: leave out those that are far, and one sign, for an input beside others.
    """
    if slot.role is Role.MASK:
        return list(_masks(bool(slot.example.double().mean() >= 0.5)))
    if slot.role is Role.NUMBERS:
        return [*_numbers(real=not slot.example.is_complex(), few=few), *([] if few else _far(fills))]
    rows = slot.rows if slot.role is Role.INDICES else 0
    return list(_integers(numbers, rows))


def forms_like(value: Tensor, numbers: Sequence[float]) -> list[tuple[str, Form]]:
    """Return forms of the values of a tensor that the example leaves out, by its dtype and by what it is like."""
    if value.is_floating_point() or value.is_complex():
        barred = [("0 and -1e9", lambda x: torch.where(x > 0, 0.0, -1e9).to(x.dtype))] if not value.is_complex() else []
        return [*_numbers(real=not value.is_complex(), few=True), *barred]
    is_mask = value.dtype is torch.bool or bool(((value == 0) | (value == 1)).all())
    masks, others = list(_masks(True)) if is_mask else [], list(_beyond_named(numbers, 2**31))
    return [*masks, *([] if value.dtype is torch.bool else others), *([] if is_mask else _EVEN)]


def _numbers(*, real: bool, few: bool) -> Iterator[tuple[str, Form]]:
    for scale in _SCALES:
        yield f"{scale:g} times as large", partial(torch.mul, other=scale)
    yield "all 0", torch.zeros_like
    if real:
        yield "below 0", lambda x: -LARGE * x.abs()
        yield "of few values", torch.round
    if few:
        return
    yield "repeated", _repeated
    yield "sparse", lambda x: x * (torch.arange(x.numel()).reshape(x.shape) % 3 == 1)
    if real:
        yield "above 0", lambda x: LARGE * x.abs()


def _far(fills: Sequence[float]) -> Iterator[tuple[str, Form]]:
    scale = min(_FAR, min((-number for number in fills), default=inf) ** 0.5 / 10)
    yield f"{scale:.3g} times as large", partial(torch.mul, other=scale)


def _repeated(value: Tensor) -> Tensor:
    """Return values of which every second sample, and every second position, is the same.

    >>> _repeated(torch.arange(6.0).reshape(3, 2)).tolist()
    [[0.0, 1.0], [2.0, 3.0], [0.0, 1.0]]
    """
    for axis in range(min(value.dim(), 2)):
        value = value.index_select(axis, torch.arange(value.shape[axis]) % 2)
    return value


def _masks(usual: bool) -> Iterator[tuple[str, Form]]:
    def form(flags: Callable[[Tensor], Tensor]) -> Form:
        return lambda value: (flags(value) == usual).to(value.dtype)

    yield "without a hole", form(lambda value: torch.ones(value.shape, dtype=torch.bool))
    yield "padded on the right", form(_right)
    yield "padded on the left", form(lambda value: _right(value).flip(-1) if value.dim() else _right(value))
    yield "with an empty row", form(lambda value: _first_empty(torch.ones(value.shape, dtype=torch.bool)))
    yield "of every second", form(lambda value: torch.arange(value.numel()).reshape(value.shape) % 2 == 0)


def _right(value: Tensor) -> Tensor:
    """Return rows that begin with True: half of the first one, and the whole of the last one."""
    if value.dim() < 2:
        return torch.arange(value.numel()).reshape(value.shape) <= value.numel() // 2
    rows, length = value[..., 0].numel(), value.shape[-1]
    lengths = length - (torch.arange(rows, 0, -1) - 1) * (length // 2) // max(rows - 1, 1)
    return (torch.arange(length) < lengths[:, None]).reshape(value.shape)


def _first_empty(flags: Tensor) -> Tensor:
    if flags.dim() > 1:
        flags[0] = False
    return flags


def _integers(numbers: Sequence[float], rows: int) -> Iterator[tuple[str, Form]]:
    """Yield integers below `rows`, or of any size where that is 0: equal, counted, and those that code names."""
    yield from _EVEN
    yield (
        "counted",
        lambda x: (torch.arange(x.shape[-1]) % (rows or x.shape[-1])).expand(x.shape).to(x.dtype) if x.dim() else x,
    )
    for number in _named(numbers, rows or 2**31):
        yield f"with {number}", partial(_with, number=number)
    yield from _beyond_named(numbers, rows or 2**31)
    if rows:
        yield "at the end of the table", lambda x: torch.full_like(x, rows - 1)


def _beyond_named(numbers: Sequence[float], top: int) -> Iterator[tuple[str, Form]]:
    """Yield integers from those on that code names, and from a large one."""
    for number in dict.fromkeys([*_named(numbers, top), *([1000] if top > _MANY else [])]):
        yield f"from {number} on", partial(_beyond, number=number, top=top)


def _named(numbers: Sequence[float], top: int) -> list[int]:
    whole = [int(number) for number in numbers if float(number).is_integer() and 1 < number < top]
    return list(dict.fromkeys([*whole[:_NAMED], *sorted(whole)[-_NAMED:]]))


_EVEN: list[tuple[str, Form]] = [
    ("all equal", lambda x: x.flatten()[0].expand(x.shape).clone() if x.numel() else x),
    ("all 0", torch.zeros_like),
]


def _with(value: Tensor, number: int) -> Tensor:
    """Put a number at every third place; in the place of a single number."""
    return torch.where(torch.arange(value.numel()).reshape(value.shape) % 3 == 0, number, value).to(value.dtype)


def _beyond(value: Tensor, number: int, top: int) -> Tensor:
    return ((value.abs() % 16 + number) % top).to(value.dtype)
