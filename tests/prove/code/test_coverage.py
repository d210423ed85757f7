"""Coverage: which ways the conditional jumps of code went."""

import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import pytest

from fxmap.prove.code import coverage
from fxmap.prove.code.coverage import Edge, Followed


def _choosing(x: int, y: int | None, *, flag: bool) -> Any:
    a = x if y is None else y
    if (a > 3 and flag) or (
        a < 0
        and not flag
    ):  # fmt: skip
        a = (1 if a else
             2)  # fmt: skip
    elif x:
        a += 1
    while a > 0 and a != 7:
        a -= 2 if a > 5 else 1
    for i in range(3):
        if i == x:
            continue
        if i and a:
            a += 1
            b = 3  # noqa: F841
        try:
            if i == 2:
                raise ValueError if flag else KeyError
        except ValueError:
            a = a or 4
        except KeyError:
            a = 0 if x else 5
    some = [j for j in range(4) if j % 2 and (j > 1 or flag)]
    more = list(_yielding(x, flag=flag))
    match x:
        case 1:
            r = 1
        case 2 if flag:
            r = 2
        case _:
            r = 3
    return (some if flag else
            more) or max(r, a
                         if flag else x)  # fmt: skip


def _yielding(x: int, *, flag: bool) -> Iterator[int]:
    for k in range(3):
        yield k if flag else x
        x = x and k
        yield (k if x else 1)
    if x:
        yield from (q for q in range(3) if q or flag)


def _by_instruction(jumps: dict[int, Any], edges: set[Edge]) -> Callable[[FrameType, str, Any], Any]:
    last = -1

    def step(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal last
        if event == "opcode":
            edges.update([(last, frame.f_lasti)] if last >= 0 else [])
            last = frame.f_lasti if frame.f_lasti in jumps else -1
        return step

    return step


def _edges(arguments: tuple[Any, ...], known: dict[CodeType, set[Edge]] | None) -> dict[CodeType, set[Edge]]:
    """Return the edges of a call at jumps; by each instruction where nothing says which edges are known."""
    found: dict[CodeType, set[Edge]] = {}
    followed: dict[CodeType, Followed] = {}

    def called(frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code.co_filename != __file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, known is not None
        one, edges = followed.setdefault(code, Followed.of(code, ())), found.setdefault(code, set())
        if known is None:
            return _by_instruction(one.jumps, edges)
        one.add(known.get(code, set()))
        return coverage._stepper(one.jumps, one.lines, edges)

    sys.settrace(called)
    try:
        _choosing(arguments[0], arguments[1], flag=arguments[2])
    finally:
        sys.settrace(None)
    ways = {code: {(jump.offset, way) for jump in one.jumps.values() for way in jump.ways} for code, one in followed.items()}
    return {code: edges & ways[code] for code, edges in found.items()}


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer of someone else is there")
@pytest.mark.parametrize("share", [0, 2, 3])
def test_lines_tell_the_same_edges_as_each_instruction(share: int) -> None:
    """`share`: every so many of the edges were taken before, so that their jumps are not followed by instruction."""
    for arguments in [(x, y, flag) for x in (0, 1, 2, 5, 9) for y in (None, -1, 3, 6) for flag in (True, False)]:
        expected = _edges(arguments, None)
        known = {
            code: {edge for place, edge in enumerate(sorted(edges)) if share and place % share == 0}
            for code, edges in expected.items()
        }
        found = _edges(arguments, known)
        assert {code: edges | known[code] for code, edges in found.items()} == expected
