"""Special values: inputs that random draws do not meet, and at which code branches.

A mask of ones, padding on the left, a row of padding, tokens that are sorted or all equal, an image from 0 to 1, whole
numbers, unit vectors, two inputs that are equal, one number that the code names. Each is one draw: one input takes the
special form, and the others are as usual, at unit scale, so that nothing else is large or far out beside it.

>>> from fxmap.model.inputs import as_inputs
>>> both = (as_inputs(torch.tensor([[0, 1, 1], [1, 1, 1]])),) * 2
>>> for text, (inputs, _) in list(specials(Sampler.of(both, ({}, {})), Shape(2), []))[:2]:
...     print(text, inputs.flat()[0].tolist())
argument 0 without a hole [[1, 1, 1], [1, 1, 1]]
argument 0 padded on the left [[0, 0, 1], [1, 1, 1]]

Cost: none; the draws are as small as the given shape.
Source: boundary values and constants of the code under test, Myers, The Art of Software Testing, 1979.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor

from fxmap.prove.inputs.samples import Both, Role, Sampler, Slot
from fxmap.prove.inputs.shapes import Shape

Form = tuple[str, Tensor]
# How many numbers that code names are tried.
_NUMBERS = 24
# How many of them are put in one row together.
_IN_ROWS = 6
# The ladder of scales.
_LOWEST, _HIGHEST, _STEP = 0.03, 300.0, 1.08


def specials(
    sampler: Sampler, shape: Shape, numbers: Sequence[float], sequences: Sequence[tuple[int, ...]] = ()
) -> Iterator[tuple[str, Both]]:
    """Yield special inputs of both models, each with words that say what is special.

    Args:
        sampler: the inputs.
        shape: of every draw.
        numbers: those that the models compare with.
        sequences: whole numbers that their code names in turn.
    """
    values = sampler.values(shape, seed=17)
    order = sorted(enumerate(sampler.slots), key=lambda item: item[1].role is not Role.MASK)
    forms = [
        [(f"{slot.name} {text}", [*values[:i], value.to(slot.example.dtype), *values[i + 1 :]]) for text, value in found]
        for i, slot in order
        for value in [values[i]]
        for found in [[*_sequences(slot, value, sequences), *_forms(slot, value, numbers), *_several(slot, value, numbers)]]
    ]
    for text, changed in (*_together(sampler.slots, values), *_in_turn(forms)):
        yield text, sampler.both_of(changed)


def anywhere(sampler: Sampler, shape: Shape) -> Iterator[tuple[str, Both]]:
    """Yield inputs at which spellings part although no code decides: 0 at one place, ids below 0, and 0 everywhere."""
    values = sampler.values(shape, seed=17)
    numbers = [slot.role is Role.NUMBERS and bool(value.dim()) for slot, value in zip(sampler.slots, values, strict=True)]
    ids = [slot.role in (Role.INDICES, Role.INTEGERS) for slot in sampler.slots]
    if any(numbers):
        changed = [
            _zero(value, min(1, value.dim() - 1), slice(0, 1)) if n else value
            for n, value in zip(numbers, values, strict=True)
        ]
        yield "0 at one place", sampler.both_of(changed)
    if any(ids):
        below = [torch.where(value % 2 == 0, -value, value) if n else value for n, value in zip(ids, values, strict=True)]
        yield "ids below 0", sampler.both_of(below)
    if any(numbers):
        yield (
            "all 0",
            sampler.both_of([torch.zeros_like(value) if n else value for n, value in zip(numbers, values, strict=True)]),
        )


def ladder(sampler: Sampler, shape: Shape) -> Iterator[tuple[str, Both]]:
    """Yield numbers of many scales, each a little larger than the one before."""
    values = sampler.values(shape, seed=17)
    numbers = [slot.role is Role.NUMBERS for slot in sampler.slots]
    for step in range(round(log(_HIGHEST / _LOWEST, _STEP)) if any(numbers) else 0):
        scale = _LOWEST * _STEP**step
        changed = [value * scale if scaled else value for scaled, value in zip(numbers, values, strict=True)]
        yield f"{scale:.3g} times as large", sampler.both_of(changed)


def _in_turn(lists: Sequence[Sequence[tuple[str, list[Tensor]]]]) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the first of every list, then the second ones: the most telling ones come first."""
    for place in range(max(map(len, lists), default=0)):
        for found in lists:
            yield from found[place : place + 1]


def _together(slots: Sequence[Slot], values: Sequence[Tensor]) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield inputs that stand in a relation: equal, one above the other, padding where the mask has holes."""
    for i, j in combinations(range(len(slots)), 2):
        one, other = slots[i], slots[j]
        if values[i].shape != values[j].shape or values[i].is_complex() or values[j].is_complex():
            continue
        if {one.role, other.role} in ({Role.MASK, Role.INDICES}, {Role.MASK, Role.INTEGERS}):
            ids, mask = (i, j) if other.role is Role.MASK else (j, i)
            for text, flags in (("in the holes", values[mask]), ("on the right", _right(values[mask]))):
                padded = [*values]
                padded[mask] = flags.to(values[mask].dtype)
                padded[ids] = values[ids].clamp(min=1) * (padded[mask] != 0)
                yield f"{slots[ids].name} 0 {text} of {slots[mask].name}", padded
        elif one.role is other.role:
            equal = [*values]
            equal[j] = values[i].to(values[j].dtype)
            yield f"{one.name} and {other.name} equal", equal
            if one.role is Role.NUMBERS:
                for text, sign in (("below", 1), ("above", -1)):
                    yield (
                        f"{one.name} {text} {other.name}",
                        [*values[:j], values[i] + sign * values[j].abs(), *values[j + 1 :]],
                    )


def _forms(slot: Slot, values: Tensor, numbers: Sequence[float]) -> Iterator[Form]:
    if values.is_complex() or not values.numel():
        return
    if slot.role is Role.MASK:
        yield from _masks(slot, values)
        return
    whole = slot.role is not Role.NUMBERS
    known = [
        c for c in numbers if not whole or (float(c).is_integer() and (slot.role is not Role.INDICES or 0 <= c < slot.rows))
    ]
    if not values.dim():
        tried = [
            *known,
            *(c + by for c in known for by in (1, -1)),
            *((0, 1, 5, 500) if whole else (0, 1, -1, 0.1, 7, 100, 1e3)),
        ]
        yield from ((f"{c:g}", torch.full_like(values, c)) for c in tried)
        return
    for c in known[:_NUMBERS]:
        yield f"with {c:g}", _placed(values, c)
        yield f"all {c:g}", torch.full_like(values, c)
        if not whole:
            yield f"all beyond {c:g}", torch.full_like(values, 1.5 * c + 1)
            yield f"around {c:g}", values + c
    yield from _integers(slot, values) if whole else _floats(values)


def _sequences(slot: Slot, values: Tensor, sequences: Sequence[tuple[int, ...]]) -> Iterator[Form]:
    """Put whole numbers one after the other at the beginning of every row, and at its end."""
    if slot.role not in (Role.INDICES, Role.INTEGERS) or values.dim() < 2:
        return
    for parts in sequences:
        if len(parts) <= values.shape[1] and (slot.role is Role.INTEGERS or 0 <= min(parts) <= max(parts) < slot.rows):
            numbers = torch.tensor(parts, dtype=values.dtype).view(-1, *[1] * (values.dim() - 2))
            for text, start in (("beginning", 0), ("ending", values.shape[1] - len(parts))):
                changed = values.clone()
                changed[:, start : start + len(parts)] = numbers
                yield f"{text} with {parts}", changed


def _several(slot: Slot, values: Tensor, numbers: Sequence[float]) -> Iterator[Form]:
    """Put several of the numbers that code names in every row: two in turn, two at its ends, one so often as another says.

    Rows whose numbers come again and again are put last.
    """
    if slot.role not in (Role.INDICES, Role.INTEGERS) or values.dim() < 2 or values.shape[1] < 2:
        return
    length = values.shape[1]
    whole = [int(c) for c in numbers if float(c).is_integer() and c >= 0]
    known = [c for c in whole if slot.role is Role.INTEGERS or c < slot.rows][:_IN_ROWS]
    for one, other in permutations(known, 2):
        for text, places in (("in turn", (0, 1)), ("at the ends", (0, length - 1))):
            changed = values.clone()
            changed[:, places[0]], changed[:, places[1]] = one, other
            yield f"with {one} and {other} {text}", changed
    for number in known:
        for count in dict.fromkeys(c for c in (2, *whole) if 1 < c < length):
            changed = torch.where(values == number, known[-1] if number != known[-1] else 0, values)
            changed[:, (torch.arange(count) * length) // count] = number
            yield f"with {number} {count} times", changed
    for period in (2, 3):
        if period < length:
            repeated = torch.arange(length) % period
            yield f"of period {period}", values[:, repeated]


def _placed(values: Tensor, number: float) -> Tensor:
    """Put a number at one place of every row."""
    changed = values.clone().reshape(values.shape[0], -1)
    changed[:, changed.shape[1] // 2] = number
    return changed.reshape(values.shape)


def _integers(slot: Slot, values: Tensor) -> Iterator[Form]:
    along = min(1, values.dim() - 1)
    yield "sorted", values.sort(along)[0]
    yield "all equal", values.flatten()[:1].expand(values.shape).clone()
    yield "0 at the beginning", _zero(values, along, slice(0, 1))
    yield "0 at the end", _zero(values, along, slice(values.shape[along] // 2, None))
    yield "all 0", torch.zeros_like(values)
    yield "of one row for all samples", values[:1].expand(values.shape).clone()
    yield "falling", values.sort(along, descending=True)[0]
    yield "of small numbers", values % 3
    yield "counted", torch.arange(values.shape[along]).view(-1, *[1] * (values.dim() - along - 1)).expand(values.shape)
    rows = values.clone()
    rows[0] = 0
    yield "with an empty row", rows
    yield "with -100", _placed(values, -100)
    if slot.role is Role.INDICES:
        # Code may take such ids modulo the rows, or by their size, or clamp them.
        other = torch.arange(values.numel()).reshape(values.shape) % 2 == 0
        yield "with numbers below 0", torch.where(other, -values, values)
        yield "below 0", -1 - values % max(slot.rows - 1, 1)
        yield "beyond the table", torch.where(other, values + slot.rows, values)
        yield "beyond the table at one place", _placed(values, slot.rows)
    if slot.role is Role.INTEGERS:
        yield "below 0", -1 - values.abs()
        yield "large", values + 1000
    else:
        yield "at the end of the table", torch.full_like(values, slot.rows - 1)


def _floats(values: Tensor) -> Iterator[Form]:
    last, along = values.dim() - 1, min(1, values.dim() - 1)
    unit = values.sigmoid()
    yield "from 0 to 1", unit
    yield "whole", (3 * values).round()
    yield "ten times as large", values * 10
    yield "of one row for all samples", values[:1].expand(values.shape).clone()
    yield "below 0", -values.abs()
    yield "above 0", values.abs()
    yield "0 at the end", _zero(values, along, slice(values.shape[along] // 2, None))
    yield "all 0", torch.zeros_like(values)
    yield "all 1", torch.ones_like(values)
    yield "of unit vectors", F.normalize(values, dim=last)
    yield "of bytes", (unit * 256).floor().clamp(max=255)
    yield "sorted", values.sort(last)[0]
    yield "a hundred times as large", values * 100
    yield "small", values * 1e-3
    yield "of probabilities", values.softmax(last)
    yield "of a choice", F.one_hot(values.argmax(last), values.shape[last]).to(values.dtype)
    yield "of one value for all positions", values.narrow(along, 0, 1).expand(values.shape).clone()
    yield "of large whole numbers", (values.abs() * 500).round()
    yield "beyond 10", values + 100
    for scale in (1e4, 1e6, 1e9, 1e12, 1e-6, 1e-12):
        yield f"{scale:g} times as large", values * scale
    yield "0 or 1", (values > 0).to(values.dtype)
    rows = values.clone()
    rows[0] = 0
    yield "with an empty row", rows
    yield "rising", values.sort(along)[0]


def _masks(slot: Slot, values: Tensor) -> Iterator[Form]:
    usual = bool(slot.example.double().mean() >= 0.5)
    full = torch.full(values.shape, usual)
    yield "without a hole", full
    yield "padded on the left", _right(values).flip(-1) == usual
    yield "padded on the right", _right(values) == usual
    if values.dim() > 1:
        rows = values.bool().clone()
        rows[0] = not usual
        yield "with an empty row", rows
        middle = full.clone()
        middle[..., : (values.shape[-1] + 1) // 3] = not usual
        yield "of one length", middle.flip(-1)
        yield "of one padding", middle
        yield "with one hole", torch.arange(values.shape[-1]).expand(values.shape).ne(values.shape[-1] // 2).eq(usual)
    yield "empty", ~full
    if slot.example.dtype is not torch.bool:
        numbers = torch.arange(values.numel()).reshape(values.shape) % 4
        yield "of numbers below 0", -numbers
        yield "of large numbers", numbers * 50
        if slot.example.is_floating_point():
            yield "of fractions", numbers / 4
    yield "random", torch.rand(values.shape, generator=torch.Generator().manual_seed(3)) > 0.5


def _right(values: Tensor) -> Tensor:
    """Return rows that begin with True, each of a length of its own, the last one whole."""
    rows, length = values.numel() // max(values.shape[-1], 1), values.shape[-1]
    lengths = [max(1, length - 2 - i % max(length - 2, 1)) for i in range(rows - 1)] + [length]
    return (torch.arange(length) < torch.tensor(lengths)[:, None]).reshape(values.shape)


def _zero(values: Tensor, axis: int, where: slice) -> Tensor:
    changed = values.clone()
    changed.movedim(axis, 0)[where] = 0
    return changed
