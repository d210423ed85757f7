"""Arguments: other values of what a model is called with, and what the example leaves out.

Both models name an argument, look up a word in a dict, or take any number of tensors: whatever both accept they have to
compute alike. What a word may stand for is guessed from its name, and from the tensors that are there.

>>> from fxmap.model.inputs import as_inputs
>>> both = (as_inputs(torch.zeros(2, 3)),) * 2
>>> def forward(x, shift=(0, 1), mask=None): ...
>>> interface = Interface.from_callable(forward)
>>> [option.text for option in options(both, (interface, interface), tuple, ())][:3]
['with shift=(1, 1)', 'with shift=(0, 2)', 'with shift=(1, 0)']

Cost: none; each is one run of both models, on small inputs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dis import get_instructions
from inspect import Parameter, Signature, unwrap
from itertools import combinations
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.model.inputs import Inputs
from fxmap.prove.samples import Both


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

    `left_out` is the name of an argument of both models that the example has not, where a tensor is given for it.
    """

    text: str
    both: Both
    left_out: str = ""


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
    absent = list[tuple[str, list[Any]]]()
    for name in _shared(signatures):
        defaults = [signature.parameters[name].default for signature in signatures]
        given = [arguments.get(name, default) for arguments, default in zip(bound, defaults, strict=True)]
        if given[0] is None and given[1] is None:
            options = _left_out(name, bound[0], outputs)
            absent.append((name, options))
        elif _is_switch(given[0]) and type(given[0]) is type(given[1]) and given[0] == given[1]:
            options = _switched(given[0], words)
        else:
            continue
        for value in options:
            changed = _with(both[0], bound[0], name, value), _with(both[1], bound[1], name, value)
            yield Option(_shown(name, value), changed, name if given[0] is None and isinstance(value, Tensor) else "")

    yield from _together(both, absent)


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
    return f"with {name}" if isinstance(value, Tensor) or callable(value) else f"with {name}={value!r}"


def _is_switch(value: Any) -> bool:
    """Whether an argument has other values that are of its kind: a switch, a number, a word, several numbers, a function."""
    if type(value) in (tuple, list):
        return bool(value) and all(type(part) in (int, float) for part in value)
    return type(value) in (bool, int, float, str) or (callable(value) and not isinstance(value, type | torch.nn.Module))


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
            for value in (2.0, True, *_left_out(name, tensors, outputs)[:2]):
                more = [replace(inputs, kwargs={**inputs.kwargs, name: value}) for inputs in both]
                yield Option(_shown(name, value), (more[0], more[1]))
    if not all(len(inputs.args) == 1 and isinstance(inputs.args[0], dict) and not inputs.kwargs for inputs in both):
        return
    for name in _looked_up(signatures, Parameter.POSITIONAL_OR_KEYWORD):
        if all(name not in inputs.args[0] for inputs in both):
            for value in _left_out(name, both[0].args[0], outputs)[:3]:
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


def _switched(value: Any, words: Iterable[str]) -> list[Any]:
    if type(value) is bool:
        return [not value]
    if type(value) is str:
        return [other for other in (*words, "?") if other != value]
    if type(value) in (tuple, list):
        moved = [[part + (i == place) for i, part in enumerate(value)] for place in range(min(len(value), 3))]
        return [type(value)(parts) for parts in (*moved, value[::-1], value[:-1], [*value, value[-1] + 1]) if parts != value]
    if callable(value):
        return [function for function in (torch.sin, torch.relu) if function is not value]
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
