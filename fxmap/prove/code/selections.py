"""Selections: places at which code of Python chooses without a branch, found in its source.

An element of a container by a computed key, an attribute by a computed name, the number of turns of a loop, a truth value
that is computed with, an exception that is caught: none of these is a conditional jump. Each is rewritten into a call that
does the same, and that can be made to select otherwise (see `selecting`).

>>> source = "def forward(self, x, n):\\n    return [self.a, self.b][n // 9](x) * int(n == 7)\\n"
>>> found = rewritten(source, "<example>").selections
>>> [(one.kind, one.text) for one in found if one.names == {"n"}]
[('item', 'n // 9'), ('flag', 'n'), ('flag', 'n == 7')]

Cost: linear in the source.
Source: value replacement, Jeffrey, Gupta and Gupta, Fault localization using value replacement, 2008,
doi:10.1145/1390630.1390652.
"""

import ast
import linecache
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import Any

# What stands for a function of `selecting` in rewritten code, until the function itself does.
MARK = "fxmap selects: "
# What a handler does that only tells a user something.
_TELLING = {"warn", "warning", "warning_once", "warn_once", "info", "debug", "print"}
# What may be made of a body in a `try`: an exception at its start, or before its last statement, or nothing.
_START, _END, _WITHOUT = 0, 1, 2
_SCOPES = (ast.Lambda, ast.FunctionDef, ast.ClassDef, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_VALUES = (ast.Name, ast.Compare, ast.Call, ast.UnaryOp, ast.Attribute)


@dataclass(frozen=True)
class Selection:
    """A place at which code selects.

    Attributes:
        file, index: the file, and the number of the place in it.
        start, end: where it stands, by lines and columns.
        kind: "item", "cut", "get", "attribute", "turns", "flag", "caught" or "case".
        text: the source of what selects.
        names, attributes, constants: what it reads, and the numbers and words that it names.
    """

    file: str
    index: int
    start: tuple[int, int]
    end: tuple[int, int]
    kind: str
    text: str
    names: frozenset[str]
    attributes: frozenset[str]
    constants: frozenset[str]

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.start[0]} ({self.text})"


@dataclass(frozen=True)
class Rewritten:
    """The selections of a file, and the code of its functions with each of them as a call."""

    selections: tuple[Selection, ...] = ()
    codes: dict[CodeType, CodeType] = field(default_factory=dict)


def rewritten_file(file: str) -> Rewritten:
    """Return the selections of a file as it is now; none where there is no source that can be read."""
    return rewritten("".join(linecache.getlines(file)), file)


@lru_cache(maxsize=256)
def rewritten(source: str, file: str) -> Rewritten:
    """Return the selections of a source."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain, changing = ast.parse(source, file), _Rewriting(file, source)
            changed = ast.fix_missing_locations(changing.visit(ast.parse(source, file)))
            codes = [compile(tree, file, "exec", dont_inherit=True) for tree in (plain, changed)]
    except (SyntaxError, ValueError, RecursionError):
        return Rewritten()
    return Rewritten(tuple(changing.found), dict(_pairs(*codes)))


def _pairs(one: CodeType, other: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """Yield the code of each function as it is, and rewritten: rewriting makes no function and takes none away."""
    inner = ([value for value in code.co_consts if isinstance(value, CodeType)] for code in (one, other))
    for ours, theirs in zip(*inner, strict=True):
        yield ours, theirs
        yield from _pairs(ours, theirs)


class _Rewriting(ast.NodeTransformer):
    """Rewrites selections into calls."""

    def __init__(self, file: str, source: str) -> None:
        self.file, self.source, self.found = file, source, list[Selection]()

    def _selection(self, kind: str, place: ast.AST, by: list[ast.AST], text: str = "") -> int:
        nodes = [node for part in by for node in ast.walk(part)]
        first: Any = place
        self.found.append(
            Selection(
                self.file,
                len(self.found),
                (first.lineno, first.col_offset),
                (first.end_lineno, first.end_col_offset),
                kind,
                text or ast.get_source_segment(self.source, first) or kind,
                frozenset(node.id for node in nodes if isinstance(node, ast.Name)),
                frozenset(node.attr for node in nodes if isinstance(node, ast.Attribute)),
                frozenset(repr(node.value) for node in nodes if isinstance(node, ast.Constant)),
            )
        )
        return len(self.found) - 1

    def _call(self, kind: str, index: int, args: list[ast.expr], like: ast.AST) -> ast.Call:
        call = ast.Call(ast.Constant(MARK + kind), [_at(index, self.file), *args], [])
        return ast.copy_location(call, like)

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        key = node.slice
        if not isinstance(node.ctx, ast.Load) or _is_fixed(key) or isinstance(key, ast.Tuple):
            return self.generic_visit(node)
        if isinstance(key, ast.Slice):
            ends = [key.lower, key.upper, key.step]
            index = self._selection("cut", key, [end for end in ends if end is not None])
            parts = [ast.Constant(None) if end is None else self.visit(end) for end in ends]
            return self._call("cut", index, [self.visit(node.value), *parts], node)
        index = self._selection("item", key, [key])
        return self._call("item", index, [self.visit(node.value), self.visit(key)], node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        plain = not node.keywords and not any(isinstance(arg, ast.Starred) for arg in node.args)
        if plain and name == "getattr" and len(node.args) in (2, 3) and not _is_fixed(node.args[1]):
            index = self._selection("attribute", node.args[1], [node.args[1]])
            return self._call("attribute", index, [self.visit(arg) for arg in node.args], node)
        if plain and name == "range" and not all(map(_is_fixed, node.args)):
            index = self._selection("turns", node, [*node.args])
            return self._call("turns", index, [self.visit(arg) for arg in node.args], node)
        if plain and isinstance(node.func, ast.Attribute) and _is_get(node):
            index = self._selection("get", node.args[0], [node.args[0]])
            return self._call("get", index, [self.visit(arg) for arg in (node.func.value, *node.args)], node)
        if plain and name in ("int", "float", "bool") and len(node.args) == 1:
            node.args = [self._flag(node.args[0])]
            return node
        node.func = self.visit(node.func)
        node.args = [self._flag(arg) if isinstance(arg, ast.Compare) else self.visit(arg) for arg in node.args]
        for keyword in node.keywords:
            keyword.value = self.visit(keyword.value)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        node.left, node.right = self._flag(node.left), self._flag(node.right)
        return node

    def _flag(self, node: ast.expr) -> Any:
        """Rewrite what may be a truth value with which code computes."""
        if not isinstance(node, _VALUES) or _asks_none(node):
            return self.visit(node)
        index = self._selection("flag", node, [node])
        return self._call("flag", index, [self.visit(node)], node)

    def visit_Try(self, node: ast.Try) -> ast.Try:
        raising = []
        for handler in node.handlers:
            if not all(map(_only_tells, handler.body)):
                kind = handler.type or ast.Name("Exception", ast.Load())
                index = self._selection("caught", handler, [*node.body], f"except {ast.unparse(kind)}")
                raising.append((index, kind, handler))
                handler.body = [*(self._statement("noted", index, key, handler) for key in (_START, _END)), *handler.body]
        self.generic_visit(node)
        node.body = self._raising(node.body, raising)
        return node

    def visit_With(self, node: ast.With) -> ast.With:
        held = [item.context_expr for item in node.items]
        found = [one for one in held if isinstance(one, ast.Call) and _name(one.func) == "suppress" and one.args]
        raising = [(self._selection("caught", one, [*node.body]), one.args[0], one) for one in found]
        self.generic_visit(node)
        node.body = self._raising(node.body, raising)
        return node

    def visit_Match(self, node: ast.Match) -> ast.stmt:
        index = self._selection("case", node.subject, [node.subject])
        self.generic_visit(node)
        found: ast.stmt = node
        for place, case in reversed(list(enumerate(node.cases))):
            # A function inside of a case would be there twice.
            if not any(isinstance(part, _SCOPES) for statement in case.body for part in ast.walk(statement)):
                test = self._call("other", index, [ast.Constant(place), ast.Constant(len(node.cases))], node)
                found = ast.copy_location(ast.If(test, deepcopy(case.body), [found]), node)
            case.body = [self._statement("noted", index, place, node), *case.body]
        return found

    def _raising(self, body: list[ast.stmt], raising: Sequence[tuple[int, ast.expr, ast.AST]]) -> list[ast.stmt]:
        """Return a body that can raise at its start and before its last statement, or be left out."""
        last, found = len(body) - 1, list[ast.stmt]()
        for place, statement in enumerate(body):
            for index, kind, like in raising:
                for key in (*((_START,) if not place else ()), *((_END,) if place == last else ())):
                    raised = ast.copy_location(ast.Raise(self._call("made", index, [kind], like), None), like)
                    found.append(self._if(index, key, [raised], like))
            found.append(statement)
        returns = any(isinstance(part, ast.Return) for statement in body for part in ast.walk(statement))
        for index, _, like in () if returns else raising:
            done = self._statement("noted", index, _WITHOUT, like)
            found = [self._if(index, _WITHOUT, [ast.copy_location(ast.Pass(), like)], like, [*found, done])]
        return found

    def _if(
        self, index: int, key: int, body: list[ast.stmt], like: ast.AST, other: list[ast.stmt] | None = None
    ) -> ast.stmt:
        test = self._call("other", index, [ast.Constant(key), ast.Constant(_WITHOUT + 1)], like)
        return ast.copy_location(ast.If(test, body, other or []), like)

    def _statement(self, kind: str, index: int, key: int, like: ast.AST) -> ast.stmt:
        return ast.copy_location(ast.Expr(self._call(kind, index, [ast.Constant(key)], like)), like)


def _at(index: int, file: str) -> ast.Constant:
    place: Any = (file, index)
    return ast.Constant(place)


def _asks_none(node: ast.expr) -> bool:
    """Whether an expression asks if something is None: what is given for it was varied, as far as both models take it."""
    return isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Is | ast.IsNot) and _is_fixed(node.comparators[0])


def _is_get(node: ast.Call) -> bool:
    return (
        isinstance(node.func, ast.Attribute)
        and node.func.attr == "get"
        and len(node.args) in (1, 2)
        and (not _is_fixed(node.args[0]))
    )


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_fixed(node: ast.AST | None) -> bool:
    """Whether an expression names nothing: constants, their negatives, and slices of them."""
    return node is None or not any(isinstance(part, ast.Name) for part in ast.walk(node))


def _only_tells(statement: ast.stmt) -> bool:
    """Whether a statement of a handler does no more than raise, or tell the user something."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return _name(statement.value.func) in _TELLING
    return isinstance(statement, ast.Raise)
