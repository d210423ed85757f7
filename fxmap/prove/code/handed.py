"""Handed on: what the parameters of functions were given, and whether it came from the inputs of the model.

A condition on a parameter matters where the caller of the model chooses what the parameter is. Tensors are taken to come
from inputs. Another value comes from them if it is that of a name in the caller which depends on the inputs, or is made of
such a name in the call; and a parameter that was given several values in the runs depends on the inputs, whatever hands it
on. Modules never do.

Cost: a few microseconds for each call of code that is followed.
Source: information flow through calls, as in Sabelfeld and Myers, Language-based information-flow security, 2003,
doi:10.1109/JSAC.2002.806121; here by names and values that were seen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from types import CodeType, FrameType
from typing import Any

from torch import Tensor, nn

from fxmap.prove.code.jumps import behind, read_in_call

_PLAIN = (bool, int, float, complex, str, bytes, Enum)


@dataclass
class Handed:
    """By the id of the code, what each parameter was given, and those that inputs reach.

    `outer` are parameters of the models themselves that count as inputs, if not all do.
    """

    kinds: dict[int, dict[str, set[Any]]] = field(default_factory=dict)
    reached: dict[int, set[str]] = field(default_factory=dict)
    outer: frozenset[str] | None = None
    _seen: set[tuple[int, int, int]] = field(default_factory=set)

    def note(self, frame: FrameType, is_users: Callable[[CodeType], bool]) -> None:
        """Note what a function is called with."""
        code, values = frame.f_code, frame.f_locals
        kinds = self.kinds.setdefault(id(code), {})
        fresh = False
        for name in _parameters(code):
            kind = _kind(values.get(name))
            known = kinds.setdefault(name, set())
            if kind not in known:
                known.add(kind)
                fresh = True
        caller = frame.f_back
        while caller is not None and not is_users(caller.f_code) and "/fxmap/" not in caller.f_code.co_filename:
            caller = caller.f_back
        where = (id(code), id(caller.f_code) if caller else 0, caller.f_lasti if caller else 0)
        if fresh or where not in self._seen:
            self._seen.add(where)
            self.reached.setdefault(id(code), set()).update(self._reached(code, values, caller, is_users))

    def _reached(
        self, code: CodeType, values: dict[str, Any], caller: FrameType | None, is_users: Callable[[CodeType], bool]
    ) -> set[str]:
        given = {name for name in _parameters(code) if not isinstance(values.get(name), nn.Module | None)}
        tensors = {name for name in given if isinstance(values[name], Tensor)}
        if caller is None or not is_users(caller.f_code):
            return given if self.outer is None else {name for name in given if name in self.outer}
        read, constants = read_in_call(caller.f_code, caller.f_lasti)
        local = caller.f_locals
        sources = [local[name] for name in read & self.depends(caller.f_code) if name in local]
        others = [value for value in sources if not isinstance(value, Tensor)]
        if code.co_name in ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>"):
            return given if sources else set()
        if not others:
            return tensors
        return tensors | {
            name
            for name in given - tensors
            if any(values[name] is value for value in others)
            or not (isinstance(values[name], _PLAIN) and _is_among(values[name], constants))
        }

    def depends(self, code: CodeType) -> set[str]:
        """Return the local names of code whose values depend on inputs."""
        kinds = self.kinds.get(id(code), {})
        varied = {name for name, known in kinds.items() if len(known) > 1 and nn.Module not in known}
        return behind(code, frozenset(self.reached.get(id(code), set()) | varied))


def _is_among(value: Any, others: list[Any]) -> bool:
    return any(type(value) is type(other) and value == other for other in others)


def _parameters(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)]


def _kind(value: Any) -> Any:
    for kind in (Tensor, nn.Module):
        if isinstance(value, kind):
            return kind
    if value is None or type(value) in _PLAIN or isinstance(value, Enum):
        return type(value), value
    if isinstance(value, int):
        return int  # a number that is watched
    return type(value)
