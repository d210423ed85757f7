"""Looked up: the words by which code asks a dict for what may not be there, and more entries of dicts by these words.

>>> def forward(batch):
...     return batch["x"] * batch.get("scale", 1) if "mask" in batch else batch["x"]
>>> keys_in(forward.__code__)
['mask', 'x', 'scale']

Cost: linear in the code.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from dis import Instruction, get_instructions
from functools import partial
from inspect import Parameter
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor, nn

from fxmap.model.inputs import Inputs
from fxmap.model.nested import Path, changed, leaves
from fxmap.prove.calls.interface import Signatures
from fxmap.prove.calls.option import Option, in_both, shown, with_keyword
from fxmap.prove.calls.stand_ins import stand_ins
from fxmap.prove.code.limits import functions_of
from fxmap.prove.inputs.samples import Both

# How many words that code looks up are tried, and how many values for each.
_WORDS, _VALUES = 8, 4
# So many instructions behind a word `in` may follow, with what it is sought in between them.
_NEAR = 7
_ARRAYS = frozenset({"from_numpy", "numpy", "np", "ndarray"})
_ASKING = frozenset({"get", "pop", "setdefault"})


def keys_of(*models: nn.Module) -> list[str]:
    """Return the words by which the code of models asks dicts, then the names of what functions can do without.

    The latter are what `**kwargs` may be handed on to.
    """
    functions = list(functions_of(*models))
    asked = [key for function in functions for key in keys_in(function.__code__)]
    return list(dict.fromkeys([*asked, *(name for function in functions for name in _optional(function))]))


def _optional(function: FunctionType) -> list[str]:
    """Return the names of what a function can do without."""
    names, count = function.__code__.co_varnames, function.__code__.co_argcount
    return [*names[count - len(function.__defaults__ or ()) : count], *(function.__kwdefaults__ or ())]


def takes_arrays(*models: nn.Module) -> bool:
    """Whether the code of models names numpy."""
    return any(not _ARRAYS.isdisjoint(function.__code__.co_names) for function in functions_of(*models))


def keys_in(code: CodeType) -> list[str]:
    """Return the words in brackets, in `word in x`, and in `x.get(word)`; those of functions inside of the code as well."""
    steps, found = list(get_instructions(code)), []
    for i, step in enumerate(steps):
        if step.opname == "LOAD_CONST" and isinstance(step.argval, str) and step.argval.isidentifier():
            after = steps[i + 1 : i + _NEAR]
            asked = any(part.opname == "CONTAINS_OP" for part in after) or any(map(_is_asking, steps[max(0, i - 2) : i]))
            if asked or any(map(_is_subscript, after[:1])):
                found.append(step.argval)
    inner = (key for value in code.co_consts if isinstance(value, CodeType) for key in keys_in(value))
    return list(dict.fromkeys([*found, *inner]))


def _is_subscript(step: Instruction) -> bool:
    return step.opname == "BINARY_SUBSCR" or (step.opname == "BINARY_OP" and step.argrepr == "[]")


def _is_asking(step: Instruction) -> bool:
    return step.opname in ("LOAD_METHOD", "LOAD_ATTR") and step.argval in _ASKING


def more_by_name(
    both: Both,
    signatures: Signatures,
    outputs: Callable[[], Sequence[Tensor]],
    words: Sequence[str],
    keys: Sequence[str],
) -> Iterator[Option]:
    """Yield what code looks up by a word: in keywords without a parameter of their own, or in a dict that it is given.

    Args:
        both: the inputs of both models.
        signatures: of their forwards.
        outputs: returns those of the source.
        words: what code compares with.
        keys: the words that code looks up.
    """
    found = list(keys)
    if all(one is not None and _takes_any(one.parameters.values()) for one in signatures):
        names = {name for one in signatures if one is not None for name in one.parameters}
        tensors = {str(i): value for i, value in enumerate(both[0].flat())}
        for turn, name in enumerate([key for key in found if key not in names][:_WORDS]):
            if all(name not in inputs.kwargs for inputs in both):
                for value in _values(name, tensors, outputs, words, turn):
                    change = in_both(partial(with_keyword, name=name, value=value))
                    yield Option(shown(name, value), change, factor=name, value=value)
    yield from _in_dicts(both, found, outputs, words)


def _takes_any(parameters: Any) -> bool:
    return any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)


def _in_dicts(
    both: Both, keys: Sequence[str], outputs: Callable[[], Sequence[Tensor]], words: Sequence[str]
) -> Iterator[Option]:
    theirs = {path for path, _ in dicts_of(both[1])}
    for path, held in dicts_of(both[0]):
        if path not in theirs:
            continue
        for turn, name in enumerate([key for key in keys if key not in held][:_WORDS]):
            for value in _values(name, held, outputs, words, turn):
                what = f"argument {''.join(path[1:])}[{name!r}]"
                change = in_both(partial(with_entry, path=path, name=name, value=value))
                left_out = name if isinstance(value, Tensor) else ""
                yield Option(shown(what, value), change, left_out, factor=what, value=value)


def dicts_of(inputs: Inputs) -> list[tuple[Path, Mapping[Any, Any]]]:
    """Return the dicts with words as keys that the arguments are or hold, with their places."""
    found: list[tuple[Path, Mapping[Any, Any]]] = []

    def noted(path: Path, value: Any) -> bool:
        if path and path != ("[1]",) and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            found.append((path, value))
        return False

    deque(leaves((inputs.args, dict(inputs.kwargs)), whole=noted), maxlen=0)
    return found


def with_entry(inputs: Inputs, path: Path, name: str, value: Any) -> Inputs:
    """Return inputs with one more entry of the dict at a place."""

    def more(here: Path, held: Any) -> Any:
        return _extended(held, name, value) if here == path else held

    args, kwargs = changed((inputs.args, dict(inputs.kwargs)), more, whole=lambda here, _: here == path)
    return replace(inputs, args=args, kwargs=kwargs)


def _extended(held: Any, name: str, value: Any) -> Any:
    if type(held) is dict or not hasattr(held, "__setitem__"):
        return {**held, name: value}
    found = copy(held)
    found[name] = value
    return found


def _values(
    name: str, tensors: Mapping[str, Any], outputs: Callable[[], Sequence[Tensor]], words: Sequence[str], turn: int
) -> list[Any]:
    found = stand_ins(name, tensors, outputs, (), turn)
    return [*[value for value in found if isinstance(value, Tensor)][:_VALUES], True, 2.0, *words[:_VALUES]]
