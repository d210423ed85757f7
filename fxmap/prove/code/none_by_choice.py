"""None by choice: local names that are None because another jump of the same code chose the constant None for them.

    gate = self.gate(x).sigmoid() if self.gate is not None else None
    ...
    if gate is not None: x = x * gate

Whether `gate` is None follows from the first condition, which is watched by itself. To turn the second one alone shows
nothing: there is no gate to multiply by. What may be None by its value (`options.get("gate")`) is not of this kind.

>>> from fxmap.prove.code.jumps import jumps_of
>>> def gated(gate, x):
...     y = gate.sigmoid() if gate is not None else None
...     return x if y is None else x * y
>>> def looked_up(options, x):
...     y = options.get("gate") if options is not None else None
...     return x if y is None else x * y
>>> [[is_none_by_choice(jump) for jump in jumps_of(code.__code__)] for code in (gated, looked_up)]
[[False, True], [False, False]]

Cost: one pass over the code.
"""

from collections.abc import Iterator
from dis import Instruction, get_instructions

from torch import Tensor

from fxmap.prove.code.jumps import Jump

_CALLS = ("PRECALL", "CALL", "CACHE", "PUSH_NULL")


def is_none_by_choice(jump: Jump) -> bool:
    """Whether a jump asks if a local is None, to which its code gives the constant None or what is never None.

    Code in which exceptions or loops choose as well is left to others.
    """
    code = jump.code
    arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if not jump.asks_none or len(jump.names) != 1 or jump.names & {*arguments, *code.co_cellvars} or code.co_exceptiontable:
        return False
    steps = list(get_instructions(code))
    if any(step.opname.startswith(("FOR_ITER", "STORE_FAST_")) for step in steps):
        return False
    given = [_given(steps, place) for place in _ends(steps, *jump.names)]
    return None not in given and True in given and False in given


def _ends(steps: list[Instruction], name: str) -> Iterator[int]:
    """Yield the places of the last instructions of the values that are stored under a name."""
    for place, step in enumerate(steps):
        if step.opname == "STORE_FAST" and step.argval == name:
            yield place - 1
            yield from (i - 1 for i, one in enumerate(steps) if one.opname == "JUMP_FORWARD" and one.argval == step.offset)


def _given(steps: list[Instruction], place: int) -> bool | None:
    """Whether a value is the constant None (True), never None (False), or not known to be either (None)."""
    step = steps[place]
    if step.opname == "LOAD_CONST":
        return step.argval is None
    if step.opname == "BINARY_OP":
        return False
    before = next((one for one in reversed(steps[: place + 1]) if one.opname not in _CALLS), step)
    method = before.opname in ("LOAD_METHOD", "LOAD_ATTR") and step.opname == "CALL"
    return False if method and hasattr(Tensor, before.argval) and not hasattr(dict, before.argval) else None
