"""Expressions that run a few operations of the source: what it computes of its weights, and what a stretch of it does.

>>> import torch
>>> from fxmap.expressions.base import Source
>>> doubled = Computed((Source("w"),), '[["aten.mul.Tensor", [{"value": 0}, 2.0], {}]]')
>>> doubled.evaluate({"w": torch.ones(2)})
tensor([2., 2.])
>>> print(doubled)
mul(w, 2.0)
"""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from fxmap.errors import MappingError
from fxmap.expressions import programs
from fxmap.expressions.base import Expression
from fxmap.expressions.call import Call, Function

# So many operations are printed; of longer programs, the number of them.
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Computed(Call):
    """What the source computes of weights alone, by the operations that it does: a standardised weight."""

    op: ClassVar[str] = "computed"
    function: ClassVar[Function] = programs.run_program
    parts: tuple[Expression, ...]
    program: str

    def __post_init__(self) -> None:
        _check(self.program, len(self.parts))

    def __str__(self) -> str:
        return _shown(self.program, list(map(str, self.parts)))


@dataclass(frozen=True, slots=True)
class Stretch(Call):
    """The matrix of a stretch of the source that is affine in its inputs: the effective weight of what it computes.

    Row by row, how the elements `read` of its result change with each element of its inputs in `probes`, and last what they
    are where all inputs are 0: see `fxmap.expressions.programs.linear_map`. A low-rank update beside a layer, a normalised
    input.
    """

    op: ClassVar[str] = "stretch"
    function: ClassVar[Function] = programs.linear_map
    parts: tuple[Expression, ...]
    program: str
    shapes: tuple[tuple[int, ...], ...]
    probes: tuple[int, ...]
    read: tuple[int, ...]

    def __post_init__(self) -> None:
        _check(self.program, len(self.shapes) + len(self.parts))

    def __str__(self) -> str:
        names = [*(f"x{i or ''}" for i in range(len(self.shapes))), *map(str, self.parts)]
        return f"effective_weight({_shown(self.program, names)})"


def _check(program: str, count: int) -> None:
    """Refuse text that is no program of so many operands.

    Raises:
        MappingError: it is none.
    """
    try:
        programs.check_program(program, count)
        _shown(program, ["x"] * count)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, StopIteration) as error:
        raise MappingError(f"no program of {count} tensors: {program[:80]!r}: {error}") from error


def _shown(program: str, names: list[str]) -> str:
    """Write a program as nested calls, or the number of its operations and what they read where it is long."""
    steps = json.loads(program)
    if len(steps) > _SHOWN:
        return f"{len(steps)} operations of {', '.join(names)}"
    written = list(names)
    for name, arguments, _ in steps:
        kind = name if name == "getitem" else name.split(".")[1]
        written.append(f"{kind}({', '.join(_written(argument, written) for argument in arguments)})")
    return written[-1]


def _written(argument: Any, names: list[str]) -> str:
    if isinstance(argument, dict):
        return names[argument["value"]] if "value" in argument else str(next(iter(argument.values())))
    if isinstance(argument, list):
        return f"[{', '.join(_written(part, names) for part in argument)}]"
    return str(argument)
