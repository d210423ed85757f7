"""Interface: the signature of a forward, with its code and the types that it states, and what binds to its names.

>>> import torch
>>> from fxmap.model.inputs import as_inputs
>>> class Masked(nn.Module):
...     def forward(self, x, mask=None): ...
>>> inputs = as_inputs((torch.zeros(2),))
>>> interface = interface_of(Masked(), inputs)
>>> absent((inputs, inputs), (interface, interface))
['mask']

Cost: none.
"""

import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import Parameter, Signature, unwrap
from types import CodeType
from typing import Any

from torch import nn

from fxmap.model.inputs import Inputs
from fxmap.model.restoring import let_through
from fxmap.prove.inputs.samples import Both


class Interface(Signature):
    """The signature of a forward, with its code and its stated types.

    `told` says that code may tell an argument by place from one by its name: hooks see the two apart, and so do wrappers and
    forwards that take any number of either.
    """

    code: CodeType | None = None
    hints: Mapping[str, Any] = {}
    told: bool = False


Signatures = tuple[Interface | None, Interface | None]


def interface_of(model: nn.Module, inputs: Inputs) -> Interface | None:
    """Return the signature of a model's forward; None where a function of the user calls the model."""
    if inputs.forward is not None:
        return None
    try:
        found = Interface.from_callable(model.forward)
    except (TypeError, ValueError):
        return None
    plain = unwrap(model.forward)
    found.code, found.hints = getattr(plain, "__code__", None), _hints(plain)
    variable = any(p.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) for p in found.parameters.values())
    found.told = variable or plain is not model.forward or bool(model._forward_pre_hooks or model._forward_hooks)
    return found


def _hints(function: Any) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception as error:  # whatever the text of an annotation raises
        let_through(error)
        return {}


def shared(signatures: tuple[Interface, Interface]) -> Iterator[str]:
    """Yield the names of arguments that both models have."""
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    for name, parameter in signatures[0].parameters.items():
        other = signatures[1].parameters.get(name)
        if other is not None and parameter.kind in kinds and other.kind in kinds:
            yield name


def bound_by(inputs: Inputs, signature: Signature) -> dict[str, Any]:
    """Return the arguments by their names.

    Raises:
        TypeError: the arguments are not those of the signature.
    """
    return dict(signature.bind(*inputs.args, **inputs.kwargs).arguments)


def given_for(name: str, signatures: tuple[Interface, Interface], bound: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return what both models are given for an argument, which may be its default."""
    return [found.get(name, one.parameters[name].default) for found, one in zip(bound, signatures, strict=True)]


def absent(both: Both, signatures: Signatures) -> list[str]:
    """Return the arguments that both models name alike, and that are None for both: the example leaves them out.

    So it does where the default is an object that says that nothing was given.
    """
    if signatures[0] is None or signatures[1] is None:
        return []
    known = signatures[0], signatures[1]
    try:
        bound = [bound_by(inputs, signature) for inputs, signature in zip(both, known, strict=True)]
    except TypeError:
        return []  # the arguments are not those of the signature
    return [name for name in shared(known) if all(map(is_nothing, given_for(name, known, bound)))]


def chosen_by_caller(both: Both, signatures: Signatures) -> tuple[frozenset[str] | None, frozenset[str] | None]:
    """Return the arguments of each model that the example gives, or that both models name; None where that is not known."""
    if signatures[0] is None or signatures[1] is None:
        return None, None
    common = frozenset(shared((signatures[0], signatures[1])))
    try:
        ours, theirs = (bound_by(inputs, one) for inputs, one in zip(both, signatures, strict=True) if one is not None)
    except TypeError:
        return None, None  # the arguments are not those of the signature
    return common | ours.keys(), common | theirs.keys()


def is_nothing(value: Any) -> bool:
    """Whether a value is None, or a bare object that stands for no value."""
    return value is None or type(value) is object


def with_argument(inputs: Inputs, bound: Mapping[str, Any], name: str, value: Any) -> Inputs:
    """Return inputs with one argument set: in its place if it was given by place, by its name otherwise."""
    if name in inputs.kwargs or name not in bound:
        return replace(inputs, kwargs={**inputs.kwargs, name: value})
    place = list(bound).index(name)
    if place >= len(inputs.args):
        return inputs
    return replace(inputs, args=(*inputs.args[:place], value, *inputs.args[place + 1 :]))


def without_argument(inputs: Inputs, bound: Mapping[str, Any], name: str, default: Any) -> Inputs:
    """Return inputs without an argument: by place, what stands before others is as it is where it is left out."""
    if name in inputs.kwargs:
        return replace(inputs, kwargs={key: value for key, value in inputs.kwargs.items() if key != name})
    place = list(bound).index(name)
    if place == len(inputs.args) - 1:
        return replace(inputs, args=inputs.args[:-1])
    return with_argument(inputs, bound, name, default)


def by_keyword(both: Both, signatures: Signatures) -> Both | None:
    """Return the inputs with all arguments by their names; None where no code can tell, or names are lacking."""
    changed = []
    for inputs, one in zip(both, signatures, strict=True):
        names = [] if one is None else [p.name for p in one.parameters.values() if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
        if len(names) < len(inputs.args) or not inputs.args:
            return None
        given = dict(zip(names, inputs.args, strict=False))
        changed.append(replace(inputs, args=(), kwargs={**given, **inputs.kwargs}))
    return (changed[0], changed[1]) if any(one is not None and one.told for one in signatures) else None
