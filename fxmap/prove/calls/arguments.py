"""Arguments: other values of what a model is called with, and what the example leaves out.

Both models name an argument, look up a word in a dict, or take any number of tensors: whatever both accept they have to
compute alike. What a word may stand for is guessed from its name, and from the tensors that are there.

>>> from fxmap.model.inputs import as_inputs
>>> both = (as_inputs(torch.zeros(2, 3)),) * 2
>>> from fxmap.prove.calls.held_names import NOTHING
>>> def forward(x, shift=(0, 1), mask=None): ...
>>> interface = Interface.from_callable(forward)
>>> [option.text for option in options(both, (interface, interface), tuple, NOTHING)][:3]
['with mask', 'with shift=(1,)', 'with mask']

Cost: none; each is one run of both models, on small inputs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import Parameter
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from fxmap.model.inputs import Inputs
from fxmap.prove.calls.held_names import HeldNames
from fxmap.prove.calls.held_options import in_turn
from fxmap.prove.calls.interface import (
    Interface,
    Signatures,
    absent,
    bound_by,
    given_for,
    is_nothing,
    shared,
    with_argument,
    without_argument,
)
from fxmap.prove.calls.looked_up import more_by_name
from fxmap.prove.calls.option import Change, Option, in_both, shown, with_keyword
from fxmap.prove.calls.other_values import is_option, other_values
from fxmap.prove.calls.stand_ins import arrays_of, stand_ins
from fxmap.prove.calls.stated import stated_values
from fxmap.prove.inputs.samples import Both

# How many shapes of two tensors that are left out are tried.
_SHAPES = 3
Outputs = Callable[[], Sequence[Tensor]]


def options(both: Both, signatures: Signatures, outputs: Outputs, held: HeldNames) -> Iterator[Option]:
    """Yield other values of arguments that both models name alike: those left out, and those that are no tensors.

    Args:
        both: the inputs of both models.
        signatures: of their forwards; None where a function of the user calls a model.
        outputs: returns those of the source: an argument that was left out may be like one of them.
        held: what the code of the models names.
    """
    if signatures[0] is not None and signatures[1] is not None:
        one, other = signatures[0], signatures[1]
        yield from _more_by_place(both, (one, other))
        yield from _by_signature(both, (one, other), outputs, held)
    yield from more_by_name(both, signatures, outputs, held.words, held.keys)


def _by_signature(
    both: Both, signatures: tuple[Interface, Interface], outputs: Outputs, held: HeldNames
) -> Iterator[Option]:
    try:
        bound = [bound_by(inputs, signature) for inputs, signature in zip(both, signatures, strict=True)]
    except TypeError:
        return  # the arguments are not those of the signature
    yield from _dropped(signatures, bound)
    missing = absent(both, signatures)
    tensors = [value for value in bound[0].values() if isinstance(value, Tensor)][:1]
    stated = {
        name: [stated_values(one.hints.get(name), held.words, tensors) for one in signatures] for name in shared(signatures)
    }
    arrays = arrays_of(bound[0]) if held.arrays else []
    tried = [
        (name, _unlike([*stated[name][0], *stand_ins(name, bound[0], outputs, held.words, turn), *arrays], None))
        for turn, name in enumerate(missing)
    ]
    switches = [
        (name, _others(name, both, bound, given_for(name, signatures, bound), stated[name], held))
        for name in shared(signatures) if name not in missing
    ]  # fmt: skip
    for name, value in in_turn([*tried, *switches]):
        tensor = name in missing and isinstance(value, Tensor)
        yield Option(shown(name, value), _set(bound, name, value), name if tensor else "", name, name, value)
    yield from _together(tried)
    yield from _embedded(both, signatures, bound, missing, outputs)


def _others(
    name: str,
    both: Both,
    bound: Sequence[Mapping[str, Any]],
    given: Sequence[Any],
    stated: Sequence[list[Any]],
    held: HeldNames,
) -> list[Any]:
    """Return other values of an argument that is no tensor, or of a tensor that is a default."""
    apart = _differs_in_place(name, both, bound)
    if is_option(*given):
        values = other_values(given[0], held.words, held.numbers) if apart else []
        return _unlike([*_common(*stated), *values], given[0])
    default = all(name not in found and isinstance(value, Tensor) for found, value in zip(bound, given, strict=True))
    return other_values(given[0], ()) if default and torch.equal(*given) else []


def _common(ours: list[Any], theirs: list[Any]) -> list[Any]:
    """Return the values that both models state."""
    return [value for value in ours if any(_is_same(value, other) for other in theirs)]


def _unlike(values: Sequence[Any], given: Any) -> list[Any]:
    """Return values once each, without the one that is given."""
    found: list[Any] = []
    for value in values:
        if not any(_is_same(value, other) for other in (given, *found)):
            found.append(value)
    return found


def _is_same(one: Any, other: Any) -> bool:
    if one is other or type(one) is not type(other) or isinstance(one, Tensor):
        return one is other
    try:
        return bool(one == other)
    except (TypeError, ValueError, RuntimeError):
        return False  # several values have no single answer


def _set(bound: Sequence[Mapping[str, Any]], name: str, value: Any) -> Change:
    """Return the change of both models' inputs that gives an argument."""
    return lambda both: (
        with_argument(both[0], bound[0], name, value), with_argument(both[1], bound[1], name, value)
    )  # fmt: skip


def _differs_in_place(name: str, both: Both, bound: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the two models are not given an argument at one place: what is at one place is varied there."""
    places = [
        name if name in inputs.kwargs else list(given).index(name) if name in given else None
        for inputs, given in zip(both, bound, strict=True)
    ]
    return places[0] != places[1] or places[0] is None


def _dropped(signatures: tuple[Interface, Interface], bound: Sequence[Mapping[str, Any]]) -> Iterator[Option]:
    """Yield the inputs without an argument that the example has, then None for it.

    The first tensor is what a model is about, and is None only where both models can do without it.
    """
    about = next((name for name, value in bound[0].items() if isinstance(value, Tensor)), "")
    for name in shared(signatures):
        defaults = [one.parameters[name].default for one in signatures]
        given = [found.get(name) for found in bound]
        if any(is_nothing(value) for value in given):
            continue
        if not any(default is Parameter.empty for default in defaults):
            yield Option(f"without {name}", _taken_out(bound, name, defaults), factor=name)
        if not all(map(is_nothing, defaults)) and (name != about or Parameter.empty not in defaults):
            yield Option(f"with {name}=None", _set(bound, name, None), factor=name)


def _taken_out(bound: Sequence[Mapping[str, Any]], name: str, defaults: Sequence[Any]) -> Change:
    return lambda both: (
        without_argument(both[0], bound[0], name, defaults[0]), without_argument(both[1], bound[1], name, defaults[1])
    )  # fmt: skip


def _embedded(
    both: Both, signatures: tuple[Interface, Interface], bound: Sequence[Mapping[str, Any]], missing: Sequence[str],
    outputs: Outputs,
) -> Iterator[Option]:  # fmt: skip
    """Yield numbers in the place of ids that may be left out, for arguments that are named as what a table makes of them."""
    first, ids = next(((name, value) for name, value in bound[0].items() if isinstance(value, Tensor)), ("", None))
    names = [name for name in missing if "embed" in name]
    if not names or ids is None or ids.is_floating_point() or any(first not in found for found in bound):
        return
    if any(first not in one.parameters or one.parameters[first].default is not None for one in signatures):
        return
    like = {value.shape: value for value in outputs() if value.shape[:-1] == ids.shape and value.is_floating_point()}
    for name, value in product(names, like.values()):

        def change(both: Both, name: str = name, value: Tensor = value) -> Both:
            ours, theirs = (without_argument(inputs, found, first, None) for inputs, found in zip(both, bound, strict=True))
            return with_keyword(ours, name, value.detach()), with_keyword(theirs, name, value.detach())

        yield Option(f"with {name} in the place of {first}", change, name, name)


def _together(absent: Sequence[tuple[str, list[Any]]]) -> Iterator[Option]:
    """Yield two arguments that the example leaves out, both of one shape."""
    for (one, ours), (other, theirs) in combinations(absent, 2):
        for first in ours[:_SHAPES]:
            second = next((v for v in theirs if isinstance(first, Tensor) and _is_like(v, first)), None)
            if second is not None:
                change = in_both(partial(_with_two, one=(one, first), other=(other, second)))
                yield Option(f"with {one} and {other}", change)


def _with_two(inputs: Inputs, one: tuple[str, Any], other: tuple[str, Any]) -> Inputs:
    return with_keyword(with_keyword(inputs, *one), *other)


def _is_like(value: Any, other: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == other.shape and value.dtype is other.dtype


def _more_by_place(both: Both, signatures: tuple[Interface, Interface]) -> Iterator[Option]:
    """Yield one more tensor by place, where both models take any number of them."""
    variable = [any(p.kind is Parameter.VAR_POSITIONAL for p in one.parameters.values()) for one in signatures]
    if not all(variable) or not all(inputs.args and isinstance(inputs.args[-1], Tensor) for inputs in both):
        return
    for count in (1, 2):
        yield Option(f"with {len(both[0].args) + count} arguments", in_both(partial(_with_more, count=count)))


def _with_more(inputs: Inputs, count: int) -> Inputs:
    return replace(inputs, args=(*inputs.args, *[inputs.args[-1].flip(0)] * count))
