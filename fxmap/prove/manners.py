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
in a second call

Cost: none; each is one run of both models, on small inputs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter, Signature, signature
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.model.inputs import Inputs
from fxmap.prove.samples import Both, Role, Sampler, common_batch
from fxmap.prove.shapes import Shape

Signatures = tuple[Signature | None, Signature | None]
# How many arguments that were left out are tried.
_ARGUMENTS, _WORDS = 40, 6
# Of the values of all these calls.
SEED = 23


@dataclass(frozen=True, slots=True)
class Manner:
    """Inputs of both models, and how they differ from the example's.

    `gradients` says that the models run with gradients, `optional` that an argument is given that the example has not, or
    has with another value: it may add outputs, which are not compared. One that is `alone` is a part of one before it, and
    is for models that do not accept the whole. `rows` are inputs, one row of them and its axis: the manner is one of the
    source only if its output for the row is the row of its output. `left_out` is the name of an argument of both models that
    the example has not, where the manner gives a tensor for it.
    """

    text: str
    both: Both
    gradients: bool = False
    optional: bool = False
    alone: bool = False
    rows: tuple[Inputs, Inputs, int] | None = None
    left_out: str = ""


def manners(
    sampler: Sampler,
    shape: Shape,
    signatures: Signatures,
    outputs: Callable[[], Sequence[Tensor]] = tuple,
    words: Sequence[str] = (),
) -> Iterator[Manner]:
    """Yield calls of both models that differ in their manner, each with words for it.

    `outputs` returns those of the source for inputs of this shape: an argument that was left out may be like one of them.
    `words` are what the code compares arguments with.
    """
    values = sampler.values(shape, seed=SEED)
    strided, whole = [_strided(value) for value in values], [_int32(Role.NUMBERS, value) for value in values]
    if any(value.dtype is torch.int64 for value in values):
        text = "with gradients, not contiguous, as int32"
        yield Manner(text, _cast(sampler, [_strided(value) for value in whole]), gradients=True)
        yield Manner("as int32", _cast(sampler, whole), alone=True)
    yield Manner("with gradients, not contiguous", _cast(sampler, strided), gradients=True, alone=True)
    for text, change in _CASTS.items():
        changed = [change(slot.role, value) for slot, value in zip(sampler.slots, values, strict=True)]
        if any(a is not b for a, b in zip(changed, values, strict=True)):
            yield Manner(text, _cast(sampler, changed))
    yield from _ranks(sampler, values)
    yield from _broadcast(sampler, values)
    both = sampler.both_of(values)
    yield from _lists(both)
    if signatures[0] is not None and signatures[1] is not None:
        yield from islice(_options(both, (signatures[0], signatures[1]), outputs, words[:_WORDS]), _ARGUMENTS)
    earlier = sampler.draw(shape, SEED + 1)
    yield Manner("in a second call", (_after(earlier[0], both[0]), _after(earlier[1], both[1])))


def _strided(value: Tensor) -> Tensor:
    """Return the same numbers in another order of memory."""
    if value.dim() < 2:
        return value
    return value.transpose(-1, -2).contiguous().transpose(-1, -2)


def _int32(role: Role, value: Tensor) -> Tensor:
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


def _after(earlier: Inputs, inputs: Inputs) -> Inputs:
    """Return inputs of a model that is called on earlier ones first, and may keep something of them."""

    def forward(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        earlier.call(model)
        return replace(inputs, args=args, kwargs=kwargs).call(model)

    return replace(inputs, forward=forward)


def _lists(both: Both) -> Iterator[Manner]:
    """Yield one more and one less item in every list of tensors, as of images."""
    ours, theirs = both
    for place, items in enumerate(ours.args):
        other = theirs.args[place] if place < len(theirs.args) else None
        if not (_is_list(items) and _is_list(other)) or len(items) != len(other or ()):
            continue
        for count in (len(items) + 1, len(items) + 2, len(items) - 1):
            if count:
                yield Manner(f"with {count} tensors in a list", (_listed(ours, place, count), _listed(theirs, place, count)))


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Tensor) for item in value)


def _listed(inputs: Inputs, place: int, count: int) -> Inputs:
    args = list(inputs.args)
    items = args[place]
    args[place] = (items + [item.flip(0) if item.dim() else item for item in items] + items)[:count]
    return replace(inputs, args=tuple(args))


def _options(
    both: Both, signatures: tuple[Signature, Signature], outputs: Callable[[], Sequence[Tensor]], words: Sequence[str]
) -> Iterator[Manner]:
    """Yield other values of arguments that both models name alike: those left out, and those that are no tensors."""
    try:
        bound = [_bound(inputs, signature) for inputs, signature in zip(both, signatures, strict=True)]
    except TypeError:
        return  # the arguments are not those of the signature
    for name in _shared(signatures):
        defaults = [signature.parameters[name].default for signature in signatures]
        given = [arguments.get(name, default) for arguments, default in zip(bound, defaults, strict=True)]
        if given[0] is None and given[1] is None:
            options = _left_out(name, bound[0], outputs)
        elif type(given[0]) in (bool, int, float, str) and type(given[0]) is type(given[1]) and given[0] == given[1]:
            options = _switched(given[0], words)
        else:
            continue
        for value in options:
            text = f"with {name}={value!r}" if not isinstance(value, Tensor) else f"with {name}"
            changed = _with(both[0], bound[0], name, value), _with(both[1], bound[1], name, value)
            absent = name if given[0] is None and isinstance(value, Tensor) else ""
            yield Manner(text, changed, optional=True, left_out=absent)


def _shared(signatures: tuple[Signature, Signature]) -> Iterator[str]:
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    for name, parameter in signatures[0].parameters.items():
        other = signatures[1].parameters.get(name)
        if other is not None and parameter.kind in kinds and other.kind in kinds:
            yield name


def _bound(inputs: Inputs, signature: Signature) -> dict[str, Any]:
    return dict(signature.bind(*inputs.args, **inputs.kwargs).arguments)


def _with(inputs: Inputs, bound: Mapping[str, Any], name: str, value: Any) -> Inputs:
    """Return inputs with one argument set: in its place if it was given by place, by its name otherwise."""
    if name in inputs.kwargs or name not in bound:
        return replace(inputs, kwargs={**inputs.kwargs, name: value})
    place = list(bound).index(name)
    if place >= len(inputs.args):
        return inputs
    return replace(inputs, args=(*inputs.args[:place], value, *inputs.args[place + 1 :]))


def _switched(value: Any, words: Iterable[str]) -> list[Any]:
    if type(value) is bool:
        return [not value]
    if type(value) is str:
        return [other for other in (*words, "?") if other != value]
    others = (value + 1, 0, 1, 2) if type(value) is int else (2 * value + 1, value / 2, 0.0)
    return [other for other in others if other != value]


def _left_out(name: str, bound: Mapping[str, Any], outputs: Callable[[], Sequence[Tensor]]) -> list[Any]:
    """Return what may stand for a tensor that the example left out, by its name and the tensors that are given."""
    given = [value for value in bound.values() if isinstance(value, Tensor)]
    if not given:
        return []
    main = given[0]
    positions = main.shape[:2] if main.dim() > 1 else main.shape
    if "mask" in name:
        mask = torch.ones(positions, dtype=torch.long)
        mask[..., -1] = 0
        return [mask, mask.bool()]
    if "position" in name:
        return [torch.arange(positions[-1]).flip(0).expand(positions).contiguous()]
    if "type" in name or name.endswith(("ids", "_id")):
        return [torch.arange(positions[-1]).remainder(2).expand(positions).contiguous()]
    if "label" in name or name in ("target", "targets", "y_true"):
        return [
            torch.arange(positions[-1]).remainder(2).expand(positions).contiguous(),
            torch.arange(positions[0]).remainder(2),
        ]
    like = {value.shape: value for value in (*outputs()[:1], *given[:2]) if value.is_floating_point()}
    return [*(value.detach().flip(0) for value in like.values()), 1, 0, (2,), (3, 3), True]


def signature_of(model: nn.Module, inputs: Inputs) -> Signature | None:
    """Return the signature of a model's forward; None where a function of the user calls the model."""
    try:
        return signature(model.forward) if inputs.forward is None else None
    except (TypeError, ValueError):
        return None
