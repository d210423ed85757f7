"""Turned: the code of a model with some of its conditional jumps inverted, for one run.

The other way of a jump runs on inputs that did not ask for it: `if options["size"] == [640, 480]` goes where it goes for
such a size. Python's own code is left as it is, for it is everyone's: the modules of a replica get functions of their own,
made of the code with the instruction inverted. So do the functions that a method calls by name, or holds in its closure.

>>> class Model(torch.nn.Module):
...     def forward(self, x, mode):
...         return -x if mode == "odd" else x
>>> from fxmap.prove.jumps import jumps_of
>>> model, (jump,) = Model(), jumps_of(Model.forward.__code__)
>>> with turned((model,), [jump]) as count:
...     count, model(1, "even")
(1, -1)
>>> model(1, "even")
1

Cost: linear in the modules and the functions that their classes hold.
Source: predicate switching, Zhang, Gupta and Gupta, Locating faults through automated predicate switching, 2006,
doi:10.1145/1134285.1134324.
"""

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dis import get_instructions, opmap
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from fxmap.model.restoring import begin, finish
from fxmap.prove.jumps import Jump

# How many calls deep the function is sought.
_DEPTH = 3
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@contextmanager
def turned(models: Sequence[nn.Module], jumps: Sequence[Jump]) -> Iterator[int]:
    """Turn jumps round in models, inside of the `with` block, and return in how many functions.

    Args:
        models: replicas, which no other thread runs.
        jumps: the jumps, all of one code.
    """
    changes = [change for model in models for module in model.modules() for change in _changes(module, jumps)]
    old = [(table, name, table.get(name, _ABSENT)) for table, name, _ in changes]
    back = partial(_put_back, old)
    begin(back)
    try:
        for table, name, value in changes:
            table[name] = value
        yield len(changes)
    finally:
        finish(back)


_ABSENT = object()
Change = tuple[MutableMapping[Any, Any], Any, Any]


def _put_back(old: list[tuple[MutableMapping[Any, Any], Any, Any]]) -> None:
    for table, name, value in reversed(old):
        if value is _ABSENT:
            table.pop(name, None)
        else:
            table[name] = value


def functions_with(module: nn.Module, jump: Jump) -> list[FunctionType]:
    """Return the functions of a module that have a jump, in their code or in that of functions which they use."""
    return [function for *_, function in _functions_of(module) if _rebuilt(function, [jump], _DEPTH) is not None]


def _changes(module: nn.Module, jumps: Sequence[Jump]) -> Iterator[Change]:
    for table, name, owner, function in _functions_of(module):
        if (found := _rebuilt(function, jumps, _DEPTH)) is not None:
            yield table, name, found if owner is None else MethodType(found, owner)


def _functions_of(module: nn.Module) -> Iterator[tuple[MutableMapping[Any, Any], Any, Any, FunctionType]]:
    """Yield the functions of a module's class, its own, and its hooks: their table and name, and what they are bound to."""
    if isinstance(module, torch.jit.ScriptModule):
        return
    own = vars(module)
    yield from ((own, name, module, function) for name, function in _methods(type(module)).items() if name not in own)
    for table in (own, *(own[name] for name in _HOOKS)):
        for name, value in list(table.items()):
            plain = value.__func__ if isinstance(value, MethodType) else value
            if isinstance(plain, FunctionType):
                yield table, name, value.__self__ if isinstance(value, MethodType) else None, plain


def _methods(kind: type) -> dict[str, FunctionType]:
    found: dict[str, FunctionType] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] != "torch":
            found |= {name: value for name, value in vars(base).items() if isinstance(value, FunctionType)}
    return {name: value for name, value in found.items() if not name.startswith("__") or name == "__call__"}


def _rebuilt(function: FunctionType, jumps: Sequence[Jump], depth: int) -> FunctionType | None:
    """Return a function with the jumps turned round, in its code or in that of functions which it uses; None if in none."""
    code = inverted(function.__code__, jumps)
    cells = list(function.__closure__ or ())
    named: dict[str, Any] = {}
    if code is None and depth:
        for place, cell in enumerate(cells):
            if (other := _other(content(cell), jumps, depth - 1)) is not None:
                cells[place] = CellType(other)
        for name in _names(function.__code__):
            if (other := _other(function.__globals__.get(name), jumps, depth - 1)) is not None:
                named[name] = other
        if not named and all(a is b for a, b in zip(cells, function.__closure__ or (), strict=True)):
            return None
    elif code is None:
        return None
    globals_ = {**function.__globals__, **named} if named else function.__globals__
    found = FunctionType(code or function.__code__, globals_, function.__name__, function.__defaults__, tuple(cells))
    found.__kwdefaults__ = function.__kwdefaults__
    found.__dict__.update(function.__dict__)
    return found


def _other(value: Any, jumps: Sequence[Jump], depth: int) -> FunctionType | None:
    if not isinstance(value, FunctionType) or (value.__module__ or "").partition(".")[0] == "torch":
        return None
    return _rebuilt(value, jumps, depth)


def content(cell: CellType) -> Any:
    """Return what a cell of a closure holds; None if nothing."""
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _names(value)


def inverted(code: CodeType, jumps: Sequence[Jump]) -> CodeType | None:
    """Return code in which jumps go the other way, its own or those of a function inside of it; None if it has none."""
    if code is jumps[0].code:
        changed = bytearray(code.co_code)
        names = {step.offset: step.opname for step in get_instructions(code)}
        for jump in jumps:
            changed[jump.offset] = opmap[_opposite(names[jump.offset])]
        return code.replace(co_code=bytes(changed))
    for place, value in enumerate(code.co_consts):
        inner = inverted(value, jumps) if isinstance(value, CodeType) else None
        if inner is not None:
            return code.replace(co_consts=(*code.co_consts[:place], inner, *code.co_consts[place + 1 :]))
    return None


def _opposite(name: str) -> str:
    """Return the instruction that jumps where another one does not.

    >>> _opposite("POP_JUMP_FORWARD_IF_NONE"), _opposite("JUMP_IF_TRUE_OR_POP")
    ('POP_JUMP_FORWARD_IF_NOT_NONE', 'JUMP_IF_FALSE_OR_POP')
    """
    pairs = (("IF_TRUE", "IF_FALSE"), ("IF_NOT_NONE", "IF_NONE"))
    for one, other in pairs:
        if one in name:
            return name.replace(one, other)
        if other in name:
            return name.replace(other, one)
    raise ValueError(f"{name} is no conditional jump")
