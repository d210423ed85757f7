"""Arguments: other values of what a model is called with, and what the example leaves out.

Both models name an argument, look up a word in a dict, or take any number of tensors: whatever both accept they have to
compute alike. What a word may stand for is guessed from its name, and from the tensors that are there.

>>> from fxmap.model.inputs import as_inputs
>>> both = (as_inputs(torch.zeros(2, 3)),) * 2
>>> def forward(x, shift=(0, 1), mask=None): ...
>>> interface = Interface.from_callable(forward)
>>> [option.text for option in options(both, (interface, interface), tuple, ())][:3]
['with mask', 'with shift=(1,)', 'with mask']

Cost: none; each is one run of both models, on small inputs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dis import get_instructions
from inspect import Parameter, Signature, unwrap
from itertools import combinations, product
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.model.inputs import Inputs, is_plain, placed, replaced
from fxmap.prove.other_values import other_values
from fxmap.prove.samples import Both
from fxmap.prove.stand_ins import stand_ins


class Interface(Signature):
    """The signature of a forward, with its code."""

    code: CodeType | None = None


Signatures = tuple[Interface | None, Interface | None]
# How many words that code looks up are tried.
_WORDS = 6
# How many shapes of two tensors that are left out are tried.
_SHAPES = 3


@dataclass(frozen=True, slots=True)
class Option:
    """Inputs of both models with another argument, and words for it.

    `left_out` is the name of an argument of both models that the example has not, where a tensor is given for it; `given`
    is that name whatever is given, or the name of a value of the example's that is another one.
    """

    text: str
    both: Both
    left_out: str = ""
    given: str = ""


def options(
    both: Both, signatures: tuple[Interface, Interface], outputs: Callable[[], Sequence[Tensor]], words: Sequence[str]
) -> Iterator[Option]:
    """Yield other values of arguments that both models name alike: those left out, and those that are no tensors.

    Args:
        both: the inputs of both models.
        signatures: of their forwards.
        outputs: returns those of the source: an argument that was left out may be like one of them.
        words: what the code compares arguments with.
    """
    yield from _more_by_place(both, signatures)
    yield from _more_by_name(both, signatures, outputs)
    try:
        bound = [_bound(inputs, signature) for inputs, signature in zip(both, signatures, strict=True)]
    except TypeError:
        return  # the arguments are not those of the signature
    yield from _dropped(both, signatures, bound)
    missing = absent(both, signatures)
    tried = [(name, stand_ins(name, bound[0], outputs, words)) for name in missing]
    switches = [
        (name, other_values(given[0], words)) for name in _shared(signatures) if name not in missing
        for given in [_given(name, signatures, bound)] if _differs_in_place(name, both, bound) and _is_switch(given)
    ]  # fmt: skip
    for name, value in _in_turn([*tried, *switches]):
        changed = _with(both[0], bound[0], name, value), _with(both[1], bound[1], name, value)
        tensor = name in missing and isinstance(value, Tensor)
        yield Option(_shown(name, value), changed, name if tensor else "", name)
    yield from _together(both, tried)
    yield from _embedded(both, signatures, bound, missing, outputs)


def absent(both: Both, signatures: tuple[Interface | None, Interface | None]) -> list[str]:
    """Return the arguments that both models name alike, and that are None for both: the example leaves them out."""
    if signatures[0] is None or signatures[1] is None:
        return []
    known = signatures[0], signatures[1]
    try:
        bound = [_bound(inputs, signature) for inputs, signature in zip(both, known, strict=True)]
    except TypeError:
        return []  # the arguments are not those of the signature
    return [name for name in _shared(known) if _are_none(_given(name, known, bound))]


def others_held(both: Both, words: Sequence[str]) -> Iterator[Option]:
    """Yield other values of what both models are given that is no tensor, by its place: also in containers and objects.

    >>> from fxmap.model.inputs import as_inputs
    >>> both = (as_inputs((torch.zeros(2, 3), {"scale": 1.0, "causal": False})),) * 2
    >>> [option.text for option in others_held(both, ())][:3]
    ["with argument 1['scale']=3.0", "with argument 1['causal']=True", "with argument 1['scale']=0.5"]
    """
    theirs = {place: value for _, place, value in placed(both[1])}
    same = [
        (name, place, value) for name, place, value in placed(both[0])
        if place in theirs and _is_switch([value, theirs[place]])
    ]  # fmt: skip
    places = {name: place for name, place, _ in same}
    for name, value in _in_turn([(name, other_values(value, words)) for name, _, value in same]):
        ours, other = (replaced(inputs, places[name], value) for inputs in both)
        yield Option(_shown(name, value), (ours, other), given=name)


def _in_turn(found: Sequence[tuple[str, list[Any]]]) -> Iterator[tuple[str, Any]]:
    """Yield the first value of every list with its name, then the second ones."""
    for place in range(max((len(values) for _, values in found), default=0)):
        yield from ((name, values[place]) for name, values in found if place < len(values))


def _given(name: str, signatures: tuple[Interface, Interface], bound: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [found.get(name, one.parameters[name].default) for found, one in zip(bound, signatures, strict=True)]


def _are_none(values: Sequence[Any]) -> bool:
    return all(value is None for value in values)


def _differs_in_place(name: str, both: Both, bound: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the two models are not given an argument at one place: what is at one place is varied there."""
    places = [
        name if name in inputs.kwargs else list(given).index(name) if name in given else None
        for inputs, given in zip(both, bound, strict=True)
    ]
    return places[0] != places[1] or places[0] is None


def _dropped(both: Both, signatures: tuple[Interface, Interface], bound: Sequence[Mapping[str, Any]]) -> Iterator[Option]:
    """Yield the inputs without an argument that the example has and that both models can do without, then None for it."""
    for name in _shared(signatures):
        defaults = [one.parameters[name].default for one in signatures]
        given = [found.get(name) for found in bound]
        if any(value is None for value in given) or any(default is Parameter.empty for default in defaults):
            continue
        ours, theirs = (_without(inputs, *rest) for inputs, *rest in zip(both, bound, [name] * 2, defaults, strict=True))
        yield Option(f"without {name}", (ours, theirs))
        if not _are_none(defaults):
            changed = _with(both[0], bound[0], name, None), _with(both[1], bound[1], name, None)
            yield Option(f"with {name}=None", changed)


def _without(inputs: Inputs, bound: Mapping[str, Any], name: str, default: Any) -> Inputs:
    """Return inputs without an argument: by place, what stands before others is as it is where it is left out."""
    if name in inputs.kwargs:
        return replace(inputs, kwargs={key: value for key, value in inputs.kwargs.items() if key != name})
    place = list(bound).index(name)
    if place == len(inputs.args) - 1:
        return replace(inputs, args=inputs.args[:-1])
    return _with(inputs, bound, name, default)


def _embedded(
    both: Both, signatures: tuple[Interface, Interface], bound: Sequence[Mapping[str, Any]], missing: Sequence[str],
    outputs: Callable[[], Sequence[Tensor]],
) -> Iterator[Option]:  # fmt: skip
    """Yield numbers in the place of ids that may be left out, for arguments that are named as what a table makes of them."""
    first, ids = next(((name, value) for name, value in bound[0].items() if isinstance(value, Tensor)), ("", None))
    names = [name for name in missing if "embed" in name]
    if not names or ids is None or ids.is_floating_point() or any(first not in found for found in bound):
        return
    if any(first not in one.parameters or one.parameters[first].default is not None for one in signatures):
        return
    without = [_without(inputs, found, first, None) for inputs, found in zip(both, bound, strict=True)]
    like = {value.shape: value for value in outputs() if value.shape[:-1] == ids.shape and value.is_floating_point()}
    for name, value in product(names, like.values()):
        ours, theirs = (replace(inputs, kwargs={**inputs.kwargs, name: value.detach()}) for inputs in without)
        yield Option(f"with {name} in the place of {first}", (ours, theirs), name, name)


def _together(both: Both, absent: Sequence[tuple[str, list[Any]]]) -> Iterator[Option]:
    """Yield two arguments that the example leaves out, both of one shape."""
    for (one, ours), (other, theirs) in combinations(absent, 2):
        for first in ours[:_SHAPES]:
            second = next((v for v in theirs if isinstance(first, Tensor) and _is_like(v, first)), None)
            if second is not None:
                more = [replace(inputs, kwargs={**inputs.kwargs, one: first, other: second}) for inputs in both]
                yield Option(f"with {one} and {other}", (more[0], more[1]))


def _is_like(value: Any, other: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == other.shape and value.dtype is other.dtype


def _shown(name: str, value: Any) -> str:
    return f"with {name}={value!r}" if is_plain(value) else f"with {name}"


def _is_switch(given: Sequence[Any]) -> bool:
    """Whether both models get one value, of a kind that has others: a switch, a number, a word, several, or a function."""
    one, other = given
    if is_plain(one):
        return type(one) is type(other) and bool(one == other)
    return one is other and callable(one) and not isinstance(one, type | torch.nn.Module)


def _more_by_place(both: Both, signatures: tuple[Interface, Interface]) -> Iterator[Option]:
    """Yield one more tensor by place, where both models take any number of them."""
    variable = [any(p.kind is Parameter.VAR_POSITIONAL for p in one.parameters.values()) for one in signatures]
    if not all(variable) or not all(inputs.args and isinstance(inputs.args[-1], Tensor) for inputs in both):
        return
    for count in (1, 2):
        more = [replace(inputs, args=(*inputs.args, *[inputs.args[-1].flip(0)] * count)) for inputs in both]
        yield Option(f"with {len(both[0].args) + count} arguments", (more[0], more[1]))


def _more_by_name(
    both: Both, signatures: tuple[Interface, Interface], outputs: Callable[[], Sequence[Tensor]]
) -> Iterator[Option]:
    """Yield what code looks up by a word: in keywords without a parameter of their own, or in a dict that it is given."""
    for name in _looked_up(signatures, Parameter.VAR_KEYWORD):
        if all(name not in inputs.kwargs for inputs in both):
            tensors = {str(i): value for i, value in enumerate(both[0].flat())}
            for value in (2.0, True, *stand_ins(name, tensors, outputs, ())[:2]):
                more = [replace(inputs, kwargs={**inputs.kwargs, name: value}) for inputs in both]
                yield Option(_shown(name, value), (more[0], more[1]))
    if not all(len(inputs.args) == 1 and isinstance(inputs.args[0], dict) and not inputs.kwargs for inputs in both):
        return
    for name in _looked_up(signatures, Parameter.POSITIONAL_OR_KEYWORD):
        if all(name not in inputs.args[0] for inputs in both):
            for value in stand_ins(name, both[0].args[0], outputs, ())[:3]:
                more = [replace(inputs, args=({**inputs.args[0], name: value},)) for inputs in both]
                yield Option(_shown(name, value), (more[0], more[1]), name if isinstance(value, Tensor) else "")


def _looked_up(signatures: tuple[Interface, Interface], kind: Any) -> list[str]:
    """Return the words that stand beside a parameter of some kind in the code of either forward."""
    found = dict[str, None]()
    for one in signatures:
        names = {name for name, parameter in one.parameters.items() if parameter.kind is kind}
        if one.code is not None:
            found |= dict.fromkeys(_beside(one.code, names))
    return list(found)[:_WORDS]


def _beside(code: CodeType, names: set[str]) -> Iterator[str]:
    steps = list(get_instructions(code))
    for i, step in enumerate(steps):
        if step.argval in names and step.opname.startswith("LOAD"):
            near = (part.argval for part in steps[max(0, i - 1) : i + 4] if part.opname == "LOAD_CONST")
            yield from (word for word in near if isinstance(word, str) and word.isidentifier())


def _shared(signatures: tuple[Interface, Interface]) -> Iterator[str]:
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


def chosen_by_caller(both: Both, signatures: Signatures) -> tuple[frozenset[str] | None, frozenset[str] | None]:
    """Return the arguments of each model that the example gives, or that both models name; None where that is not known."""
    if signatures[0] is None or signatures[1] is None:
        return None, None
    shared = frozenset(_shared((signatures[0], signatures[1])))
    try:
        ours, theirs = (_bound(inputs, one) for inputs, one in zip(both, signatures, strict=True) if one is not None)
    except TypeError:
        return None, None  # the arguments are not those of the signature
    return shared | ours.keys(), shared | theirs.keys()


def interface_of(model: nn.Module, inputs: Inputs) -> Interface | None:
    """Return the signature of a model's forward; None where a function of the user calls the model."""
    if inputs.forward is not None:
        return None
    try:
        found = Interface.from_callable(model.forward)
    except (TypeError, ValueError):
        return None
    found.code = getattr(unwrap(model.forward), "__code__", None)
    return found
