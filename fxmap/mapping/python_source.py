"""A mapping as a Python module that needs torch alone.

Expressions call plain functions; the module holds the source of these functions, of those that they call in turn, and
the imports and constants that they name.

>>> from fxmap.expressions.arithmetic import Full
>>> from fxmap.expressions.base import Source
>>> source = module_source({"fc.bias": Full((2,), 0.0, Source("fc.weight")), "fc.weight": Source("fc.weight")})
>>> print(source)  # doctest: +ELLIPSIS
import torch
from torch import Tensor
...
def dtype_like(value: Tensor) -> torch.dtype:
...
def convert(state):
    try:
        return {
            'fc.bias': full((2,), 0.0, state['fc.weight']),
            'fc.weight': state['fc.weight'],
        }
    except KeyError as error:
        raise KeyError(f"{error.args[0]}: not in the state dict, which has {len(state)} keys") from None
<BLANKLINE>
"""

import ast
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import FunctionType

from fxmap.expressions.base import Expression
from fxmap.expressions.call import functions_of
from fxmap.mapping.shapes import rows_taken

_OURS = "fxmap."


def module_source(expressions: Mapping[str, Expression], shapes: Mapping[str, tuple[int, ...]] | None = None) -> str:
    """Write a Python module whose `convert(state)` evaluates all expressions.

    It refuses a state dict without a source key, with too few rows for a slice, or with another shape than one of `shapes`.
    """
    printed = _Printed()
    for expression in expressions.values():
        for function in functions_of(expression):
            if isinstance(function, FunctionType) and function.__module__.startswith(_OURS):
                printed.add(function.__module__, function.__name__)
    lines = "\n".join(f"            {key!r}: {expression.python()}," for key, expression in expressions.items())
    shapes = shapes or {}
    rows = {key: (count,) for key, count in rows_taken(expressions).items() if key not in shapes}
    checks = _check(shapes, "shape", "of the shape") + _check(rows, "shape[:1]", "with so many rows", "<")
    convert = f"def convert(state):\n{checks}    try:\n        return {{\n{lines}\n        }}\n{_ABSENT}"
    imports = sorted(printed.imports, key=lambda line: (line.startswith("from"), line))
    return "\n\n\n".join(["\n".join(imports), *printed.definitions.values(), convert])


_ABSENT = """    except KeyError as error:
        raise KeyError(f"{error.args[0]}: not in the state dict, which has {len(state)} keys") from None
"""


def _check(known: Mapping[str, tuple[int, ...]], read: str, what: str, differs: str = "!=") -> str:
    """Write a loop that raises an error where a tensor of a state dict is of another size."""
    if not known:
        return ""
    return (
        f"    for key, size in {dict(known)!r}.items():\n"
        f"        if key in state and tuple(state[key].{read}) {differs} size:\n"
        f'            text = f"{{key}}: {{list(state[key].shape)}}, and the mapping reads one {what} {{list(size)}}"\n'
        "            raise ValueError(text)\n"
    )


@dataclass
class _Printed:
    """The parts of the module being written: its imports, and its definitions, each after those that it uses."""

    imports: set[str] = field(default_factory=lambda: {"import torch"})
    definitions: dict[str, str] = field(default_factory=dict)

    def add(self, module: str, name: str) -> None:
        """Add the definition of a name in a module, and those of all names in it in turn; builtins need none."""
        statement = _statements(module).get(name)
        if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith(_OURS):
            self.add(str(statement.module), name)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            self.imports.add(ast.unparse(statement))
        elif statement is not None and name not in self.definitions:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and node.id != name:
                    self.add(module, node.id)
            self.definitions[name] = _text(module, name, statement)


@cache
def _statements(module: str) -> dict[str, ast.stmt]:
    """Return the statements at the top of a module by the names that they bind; imports bind one name each."""
    found: dict[str, ast.stmt] = {}
    for statement in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(statement, ast.FunctionDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found[statement.targets[0].id] = statement
        elif isinstance(statement, ast.Import):
            found |= {alias.asname or alias.name: ast.Import([alias]) for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            found |= {a.asname or a.name: ast.ImportFrom(statement.module, [a], 0) for a in statement.names}
    return found


def _text(module: str, name: str, statement: ast.stmt) -> str:
    if isinstance(statement, ast.FunctionDef):
        return inspect.getsource(getattr(sys.modules[module], name)).rstrip()
    return ast.unparse(statement)
