"""Manners: ways of calling a model that differ in more than values and sizes.

A model may be called with int32 ids or a bool mask, with counts in the place of a mask of 0 and 1, with a single sample
without a batch, under gradients, with a tensor that is not contiguous, with one more image in a list, with an argument that
the example left out, or another value of a switch. Whatever both models accept they have to compute alike.

>>> from fxmap.model.inputs import as_inputs
>>> ids = as_inputs(torch.tensor([[4, 5]]))
>>> both = Sampler.of((ids, ids), ({0: 9}, {0: 9}))
>>> for manner in manners(both, Shape(2), (None, None)):
...     print(manner.text)
with gradients, not contiguous, as int32
as int32
with gradients, not contiguous
without a batch
with one more axis
without a sample
without a position
as parts of larger tensors
expanded
in a second call
in a call after 2 others
in a call after 3 others
in a call after 4 others
in a call after 6 others

Cost: none; each is one run of both models, on small inputs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.model.inputs import Inputs
from fxmap.prove.calls.arguments import options
from fxmap.prove.calls.held_names import NOTHING, HeldNames
from fxmap.prove.calls.held_options import others_held
from fxmap.prove.calls.interface import Signatures, by_keyword
from fxmap.prove.calls.lists_of_tensors import lists, many
from fxmap.prove.calls.option import Option
from fxmap.prove.code.coverage import unwatched
from fxmap.prove.inputs.samples import Both, Role, Sampler, common_batch
from fxmap.prove.inputs.shapes import Shape, batch_of

# How many arguments that were left out are tried.
_ARGUMENTS, _HELD = 80, 40
# The calls before one.
_CALLS = (2, 3, 4, 6)
# Of the values of all these calls.
SEED = 23


@dataclass(frozen=True, slots=True)
class Manner:
    """Inputs of both models, and how they differ from the example's.

    `layout` says that only the order of the numbers in memory differs, and `dear` that it takes as long as many runs.
    `gradients` says that the models run with gradients, `optional` that an argument is given that the example has not, or
    has with another value: it may add outputs, which are not compared. One that is `alone` is a part of one before it, and
    is for models that do not accept the whole; one that is `lenient` leaves out samples of which one model makes no numbers.
    `rows` are inputs, one row of them and its axis: the manner is one of the source only if its output for the row is the
    row of its output; without an axis, if both outputs are the same. `left_out` is the name of an argument of both models
    that the example has not, where the manner gives a tensor for it, and `given` that of one that it gives another value.
    """

    text: str
    both: Both
    gradients: bool = False
    optional: bool = False
    alone: bool = False
    rows: tuple[Inputs, Inputs, int | None] | None = None
    option: Option | None = None
    layout: bool = False
    dear: bool = False
    lenient: bool = False


def manners(
    sampler: Sampler,
    shape: Shape,
    signatures: Signatures,
    outputs: Callable[[], Sequence[Tensor]] = tuple,
    held: HeldNames = NOTHING,
    earlier: Sequence[Both] = (),
) -> Iterator[Manner]:
    """Yield calls of both models that differ in their manner, each with words for it.

    `outputs` returns those of the source for inputs of this shape: an argument that was left out may be like one of them.
    `held` is what the code compares arguments with, and `earlier` are inputs of other shapes, which may come first.
    """
    values = sampler.values(shape, seed=SEED)
    strided, whole = [in_other_order(value) for value in values], [_int32(value) for value in values]
    if any(value.dtype is torch.int64 for value in values):
        text = "with gradients, not contiguous, as int32"
        yield Manner(text, _cast(sampler, [in_other_order(value) for value in whole]), gradients=True)
        yield Manner("as int32", _cast(sampler, whole), alone=True)
    yield Manner("with gradients, not contiguous", _cast(sampler, strided), gradients=True, alone=True)
    for text, change in _CASTS.items():
        changed = [change(slot.role, value) for slot, value in zip(sampler.slots, values, strict=True)]
        if any(a is not b for a, b in zip(changed, values, strict=True)):
            yield Manner(text, _cast(sampler, changed))
    yield from _masks_of_floats(sampler, values)
    yield from _ranks(sampler, values)
    yield from _broadcast(sampler, values)
    yield from _for_each_sample(sampler, shape, values)
    yield from _empty(sampler, values)
    both = sampler.both_of(values)
    yield from (Manner(text, changed) for text, changed in lists(both))
    yield from (Manner(text, changed, dear=True) for text, changed in many(both, held.limits))
    yield from (Manner(text, _cast(sampler, changed), layout=True) for text, changed in _layouts(values))
    named = by_keyword(both, signatures)
    if named is not None:
        yield Manner("with all arguments by their names", named)
    asked = islice(options(both, signatures, outputs, held), _ARGUMENTS)
    for option in (*asked, *islice(others_held(both, outputs, held.words, held.numbers), _HELD)):
        with_option = option.applied(both)
        if with_option is not None:
            yield Manner(option.text, with_option, optional=True, option=option)
    yield from _later_calls(both, sampler.draw(shape, SEED + 1), earlier)


def in_other_order(value: Tensor) -> Tensor:
    """Return the same numbers in another order of memory, as a part of a larger tensor."""
    if not value.dim():
        return value
    inner = _part(value.transpose(-1, -2) if value.dim() > 1 else value)
    return inner.transpose(-1, -2) if value.dim() > 1 else inner


def _part(value: Tensor) -> Tensor:
    """Return the same numbers as the second part of a larger tensor, whose first part holds others.

    Code that counts from the beginning of the memory finds the others.

    >>> part = _part(torch.tensor([1.0, 2.0]))
    >>> part.tolist(), part.as_strided((2,), (1,), 0).tolist()
    ([1.0, 2.0], [3.0, 2.0])
    """
    if not value.dim():
        return value
    other = ~value if value.dtype is torch.bool else value.flatten().roll(1).reshape(value.shape) + 1
    return torch.cat([other, value])[len(value) :]


def _layouts(values: Sequence[Tensor]) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the same numbers as a part of others, with the channels last, with one row for all, and as sparse tensors."""
    if any(value.dim() for value in values):
        yield "as parts of larger tensors", [_part(value) for value in values]
    if any(value.dim() == 4 for value in values):
        last = torch.channels_last
        yield "channels last", [v.contiguous(memory_format=last) if v.dim() == 4 else v for v in values]
    if any(value.dim() > 1 and len(value) > 1 for value in values):
        yield "expanded", [v[:1].expand(v.shape) if v.dim() > 1 else v for v in values]
    if any(value.dim() == 2 and value.is_floating_point() for value in values):
        yield "sparse", [v.to_sparse() if v.dim() == 2 and v.is_floating_point() else v for v in values]


def _int32(value: Tensor) -> Tensor:
    return value.int() if value.dtype is torch.int64 else value


def _bool(role: Role, value: Tensor) -> Tensor:
    return value != 0 if role is Role.MASK and value.dtype is not torch.bool else value


def _long(role: Role, value: Tensor) -> Tensor:
    return value.long() if role is Role.MASK and value.dtype is not torch.int64 else value


def _counts(role: Role, value: Tensor) -> Tensor:
    """Return a mask of whole numbers, as of packed texts that are numbered."""
    if role is not Role.MASK or value.dtype is torch.bool:
        return value
    return value * (1 + torch.arange(value.numel()).reshape(value.shape) % 3).to(value.dtype)


def _square(role: Role, value: Tensor) -> Tensor:
    """Return a mask for every position, as a causal one, in the place of one for all."""
    if role is not Role.MASK or value.dim() != 2:
        return value
    length = value.shape[1]
    return (value[:, None] * torch.ones(length, length).tril().to(value.dtype)).to(value.dtype)


def _bytes(role: Role, value: Tensor) -> Tensor:
    if role is not Role.NUMBERS or not value.is_floating_point() or not value.dim():
        return value
    return (value.sigmoid() * 256).clamp(max=255).to(torch.uint8)


_CASTS: dict[str, Callable[[Role, Tensor], Tensor]] = {
    "with a mask of bool": _bool,
    "with a mask of integers": _long,
    "with a mask of counts": _counts,
    "with a mask for every position": _square,
    "as bytes": _bytes,
}


def _masks_of_floats(sampler: Sampler, values: Sequence[Tensor]) -> Iterator[Manner]:
    """Yield masks of bool as floats: 0 and 1, and 0 and minus infinity, which is added to scores.

    A model that computes with them what it computes with the mask of bool takes masks of floats.
    """
    for place, (slot, value) in enumerate(zip(sampler.slots, values, strict=True)):
        if slot.role is not Role.MASK or value.dtype is not torch.bool or not value.dim():
            continue
        usual = bool(slot.example.double().mean() >= 0.5) if slot.example.numel() else True
        hidden = torch.zeros(value.shape, dtype=torch.float64).masked_fill(value != usual, -torch.inf)
        for text, floats in (("0 and 1", value.double()), ("0 and minus infinity", hidden)):
            changed, given = _cast(sampler, [*values[:place], floats, *values[place + 1 :]]), _cast(sampler, values)
            yield Manner(f"with {slot.name} of {text}", changed, rows=(given[0], changed[0], None), lenient=True)


def _cast(sampler: Sampler, values: Sequence[Tensor]) -> Both:
    """Return inputs of both models with these values of the source's, in their own dtypes and ranks."""
    ours, theirs = (iter(values), iter(zip(sampler.links, sampler.both[1].flat(), strict=True)))

    def linked(tensor: Tensor) -> Tensor:
        link, own = next(theirs)
        if link is None:
            return own
        value, order = values[link[0]], list(link[1])
        return value if order == sorted(order) or value.dim() != len(order) else value.permute(order)

    return sampler.both[0].map(lambda _: next(ours)), sampler.both[1].map(linked)


def _ranks(sampler: Sampler, values: Sequence[Tensor]) -> Iterator[Manner]:
    """Yield a sample without a batch, and samples with one more axis, for models that take each row as by itself."""
    straight = all(link is not None and list(link[1]) == sorted(link[1]) for link in sampler.links)
    if not straight or common_batch(values) is None or any(value.dim() < 2 for value in values):
        return
    whole, part = _cast(sampler, values), _cast(sampler, [value[0] for value in values])
    yield Manner("without a batch", part, rows=(whole[0], part[0], 0))
    more = _cast(sampler, [torch.stack([value, value.flip(0)], 1) for value in values])
    yield Manner("with one more axis", more, rows=(more[0], whole[0], 1))


def _broadcast(sampler: Sampler, values: Sequence[Tensor]) -> Iterator[Manner]:
    """Yield one row, or one position, of one input for all of the others."""
    for i, value in enumerate(values if len(values) > 1 else ()):
        for axis, text in ((0, "row"), (1, "position")):
            if value.dim() > 1 and value.shape[axis] > 1:
                changed = [*values[:i], value.narrow(axis, 0, 1), *values[i + 1 :]]
                yield Manner(f"with one {text} of {sampler.slots[i].name}", _cast(sampler, changed))


def _for_each_sample(sampler: Sampler, shape: Shape, values: Sequence[Tensor]) -> Iterator[Manner]:
    """Yield a number for each sample, where one stands for all, such as a timestep."""
    count = batch_of(values)
    for i, value in enumerate(values if count else ()):
        if not value.dim():
            several = torch.stack([sampler.values(shape, SEED + by)[i] for by in range(count or 0)])
            yield Manner(
                f"with {sampler.slots[i].name} for each sample", _cast(sampler, [*values[:i], several, *values[i + 1 :]])
            )


def _empty(sampler: Sampler, values: Sequence[Tensor]) -> Iterator[Manner]:
    """Yield inputs without a sample, and without a position."""
    if common_batch(values):
        yield Manner("without a sample", _cast(sampler, [value[:0] if value.dim() else value for value in values]))
    length = next((value.shape[1] for value in values if value.dim() in (2, 3)), 0)
    if length:
        yield Manner("without a position", _cast(sampler, [_without_extent(value, length) for value in values]))


def _without_extent(value: Tensor, length: int) -> Tensor:
    for axis in range(1, value.dim()):
        value = value.narrow(axis, 0, 0) if value.shape[axis] == length else value
    return value


def _later_calls(both: Both, alike: Both, others: Sequence[Both]) -> Iterator[Manner]:
    """Yield the inputs as those of a second call, of one that follows other shapes, and of the next few ones."""
    yield Manner("in a second call", after([alike], both))
    for other in others:
        yield Manner(f"in a call after {other[0].size}", after([other], both))
        yield Manner(f"of {other[0].size} after {both[0].size}", after([both], other))
    for count in _CALLS:
        yield Manner(f"in a call after {count} others", after([alike] * count, both), dear=True)


def after(earlier: Sequence[Both], both: Both) -> Both:
    """Return inputs of both models that are called on earlier ones first, and may keep something of them."""
    ours, theirs = (_in_turn([first[side] for first in earlier], both[side]) for side in (0, 1))
    return ours, theirs


def _in_turn(earlier: Sequence[Inputs], inputs: Inputs) -> Inputs:
    def forward(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with unwatched():
            for first in earlier:
                first.map(Tensor.clone).call(model)
        return replace(inputs, args=args, kwargs=kwargs).call(model)

    return replace(inputs, forward=forward)
