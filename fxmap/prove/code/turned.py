"""Turned: the code of a model with some of its conditional jumps inverted, for one run.

The other way of a jump runs on inputs that did not ask for it: `if options["size"] == [640, 480]` goes where it goes for
such a size. Python's own code is left as it is, for it is everyone's: the modules of a replica get functions of their own,
made of the code with the instruction inverted. So do the functions that a method calls by name, or holds in its closure.

>>> class Model(torch.nn.Module):
...     def forward(self, x, mode):
...         return -x if mode == "odd" else x
>>> from fxmap.prove.code.jumps import jumps_of
>>> model, (jump,) = Model(), jumps_of(Model.forward.__code__)
>>> with turned((model,), [jump]) as made:
...     len(made), model(1, "even")
(1, -1)
>>> model(1, "even")
1

Cost: linear in the modules and the functions that their classes hold.
Source: predicate switching, Zhang, Gupta and Gupta, Locating faults through automated predicate switching, 2006,
doi:10.1145/1134285.1134324.
"""

import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from dis import get_instructions, opmap
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from fxmap.model.restoring import begin, finish
from fxmap.prove.code.jumps import Jump

# How many calls deep the function is sought.
_DEPTH = 3
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@contextmanager
def turned(models: Sequence[nn.Module], jumps: Sequence[Jump]) -> Iterator[list[CodeType]]:
    """Turn jumps round in models, inside of the `with` block, and return the code that has them turned.

    Args:
        models: replicas, which no other thread runs.
        jumps: the jumps, all of one code.
    """
    made: list[CodeType] = []
    with with_other_code(models, lambda code: inverted(code, jumps, made)):
        yield made


@contextmanager
def with_other_code(models: Sequence[nn.Module], change: Callable[[CodeType], CodeType | None]) -> Iterator[None]:
    """Give models other code, inside of the `with` block.

    Args:
        models: replicas, which no other thread runs.
        change: returns other code for the code of a function, or None where it stays.
    """
    rebuilding = _Rebuilding(change)
    changes = [found for model in models for module in model.modules() for found in _changes(module, rebuilding)]
    old = [(table, name, table.get(name, _ABSENT)) for table, name, _ in changes]
    back = partial(_put_back, old)
    begin(back)
    try:
        for table, name, value in changes:
            table[name] = value
        yield
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
    rebuilding = _Rebuilding(lambda code: code if _holds(code, jump.code) else None)
    return [function for *_, function in _functions_of(module) if rebuilding.rebuilt(function) is not None]


def _holds(code: CodeType, inner: CodeType) -> bool:
    return code is inner or any(_holds(value, inner) for value in code.co_consts if isinstance(value, CodeType))


def _changes(module: nn.Module, rebuilding: "_Rebuilding") -> Iterator[Change]:
    for table, name, owner, function in _functions_of(module):
        if (found := rebuilding.rebuilt(function)) is not None:
            yield table, name, found if owner is None else MethodType(found, owner)


def _functions_of(module: nn.Module) -> Iterator[tuple[MutableMapping[Any, Any], Any, Any, FunctionType]]:
    """Yield the functions of a module's class, its own, and its hooks: their table and name, and what they are bound to."""
    if isinstance(module, torch.jit.ScriptModule):
        return
    own = vars(module)
    for name, value in _methods(type(module)).items():
        if name not in own:
            yield own, name, None if isinstance(value, staticmethod) else module, _function(value)
    for table in (own, *(own[name] for name in _HOOKS)):
        for name, value in list(table.items()):
            plain = value.__func__ if isinstance(value, MethodType) else value
            if isinstance(plain, FunctionType):
                yield table, name, value.__self__ if isinstance(value, MethodType) else None, plain


def _methods(kind: type) -> dict[str, Any]:
    """Return the methods of a class and its bases by name, static ones as what holds them."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] != "torch":
            found |= {name: value for name, value in vars(base).items() if isinstance(_function(value), FunctionType)}
    return {name: value for name, value in found.items() if not name.startswith("__") or name == "__call__"}


def _function(value: Any) -> Any:
    return value.__func__ if isinstance(value, staticmethod) else value


@dataclass
class _Rebuilding:
    """Functions with other code, which `change` returns; those that a function uses are changed as well."""

    change: Callable[[CodeType], CodeType | None]
    known: dict[tuple[int, int], FunctionType | None] = field(default_factory=dict)

    def rebuilt(self, function: FunctionType, depth: int = _DEPTH) -> FunctionType | None:
        """Return a function with other code, its own or that of functions which it uses; None if none changes."""
        key = id(function), depth
        if key not in self.known:
            self.known[key] = None  # one that uses itself
            self.known[key] = self._rebuilt(function, depth)
        return self.known[key]

    def _rebuilt(self, function: FunctionType, depth: int) -> FunctionType | None:
        code = self.change(function.__code__)
        cells, named = self._used(function, depth - 1) if depth else (None, {})
        if code is None and cells is None and not named:
            return None
        globals_ = {**function.__globals__, **named} if named else function.__globals__
        closure = function.__closure__ if cells is None else cells
        found = FunctionType(code or function.__code__, globals_, function.__name__, function.__defaults__, closure)
        found.__kwdefaults__ = function.__kwdefaults__
        found.__dict__.update(function.__dict__)
        return found

    def _used(self, function: FunctionType, depth: int) -> tuple[tuple[CellType, ...] | None, dict[str, Any]]:
        """Return the cells and the globals of a function where what they hold is rebuilt; None where no cell is."""
        cells = list(function.__closure__ or ())
        for place, name in enumerate(function.__code__.co_freevars):
            if name != "__class__" and (other := self._other(content(cells[place]), depth)) is not None:
                cells[place] = CellType(other)
        names = dict.fromkeys(_names(function.__code__))
        found = {name: self._other(function.__globals__.get(name), depth) for name in names}
        named: dict[str, Any] = {name: other for name, other in found.items() if other is not None}
        if "super" in names and "super" not in function.__globals__ and "__class__" in function.__code__.co_freevars:
            kind = content(cells[function.__code__.co_freevars.index("__class__")])
            if isinstance(kind, type) and any(self._in_base(base, depth) for base in kind.__mro__[1:]):
                named["super"] = partial(_Super, self, depth)
        changed = any(a is not b for a, b in zip(cells, function.__closure__ or (), strict=True))
        return tuple(cells) if changed else None, named

    def _in_base(self, base: type, depth: int) -> bool:
        """Whether a method of a base class changes, which is called by `super`."""
        return base.__module__.partition(".")[0] != "torch" and any(
            self.rebuilt(value, depth) is not None for value in vars(base).values() if isinstance(value, FunctionType)
        )

    def _other(self, value: Any, depth: int) -> FunctionType | None:
        if not isinstance(value, FunctionType) or (value.__module__ or "").partition(".")[0] == "torch":
            return None
        return self.rebuilt(value, depth)


class _Super:
    """What `super` returns, with methods that have other code."""

    def __init__(self, rebuilding: _Rebuilding, depth: int, *given: Any) -> None:
        caller = sys._getframe(1)
        if not given:
            first = caller.f_code.co_varnames[0] if caller.f_code.co_argcount else ""
            given = caller.f_locals["__class__"], caller.f_locals.get(first)
        self._parent, self._rebuilding, self._depth = super(*given), rebuilding, depth

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._parent, name)
        if isinstance(value, MethodType) and isinstance(value.__func__, FunctionType):
            other = self._rebuilding.rebuilt(value.__func__, self._depth)
            return value if other is None else MethodType(other, value.__self__)
        return value


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


def inverted(code: CodeType, jumps: Sequence[Jump], made: list[CodeType]) -> CodeType | None:
    """Return code in which jumps go the other way, its own or those of a function inside of it; None if it has none.

    The code that has them is added to what was `made`.
    """
    if code is jumps[0].code:
        changed = bytearray(code.co_code)
        names = {step.offset: step.opname for step in get_instructions(code)}
        for jump in jumps:
            changed[jump.offset] = opmap[_opposite(names[jump.offset])]
        made.append(code.replace(co_code=bytes(changed)))
        return made[-1]
    for place, value in enumerate(code.co_consts):
        inner = inverted(value, jumps, made) if isinstance(value, CodeType) else None
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
