"""Coverage: which ways the code of models went at its conditional jumps, in all runs that were compared.

While code runs, `sys.settrace` says which instructions are next; only code with jumps of which a way was never taken is
followed, and torch's own never is. A tracer that is there already, of a debugger or of a coverage tool, is left alone:
then nothing is known, which `Coverage.blind` says.

>>> coverage = Coverage()
>>> def forward(x, mode):
...     return -x if mode == "odd" else x
>>> with coverage.watch() as seen:
...     _ = forward(1, "even")
>>> coverage.add(seen, None)
>>> [(jump.text, way) for jump, way in coverage.untaken()]
[('mode == "odd"', True)]

Cost: a call of Python for each instruction of code that is followed.
Source: edge coverage, as of coverage.py and of fuzzers; Myers, The Art of Software Testing, 1979.
"""

import sys
import sysconfig
from collections.abc import Callable, Collection, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import unwrap
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from fxmap.model.restoring import begin, finish
from fxmap.prove.code.handed import Handed
from fxmap.prove.code.jumps import Jump, jumps_of

_FXMAP, _TORCH = str(Path(__file__).resolve().parents[2]), str(Path(torch.__file__).resolve().parent)
_STANDARD = sysconfig.get_paths()["stdlib"]
_INSTALLED = ("site-packages", "dist-packages")
Edge = tuple[int, int]
# From Python 3.12 on, code is written anew whenever its instructions begin or cease to be followed.
_EACH = sys.version_info >= (3, 12)


def is_users(code: CodeType) -> bool:
    """Whether code is that of a model, or of a library: neither Python's, torch's nor fxmap's."""
    file = code.co_filename
    if file.startswith((_TORCH, _FXMAP)) or (file.startswith(_STANDARD) and not _is_installed(file)):
        return False
    return not file.startswith(("<frozen", "<eval_with_key", "<__array_function__"))


def _is_installed(file: str) -> bool:
    return any(part in file for part in _INSTALLED)


def files_of(model: nn.Module) -> frozenset[str]:
    """Return the files in which the classes of a model's modules are written, and their forwards."""
    kinds = {type(module) for module in model.modules()}
    modules = {sys.modules.get(kind.__module__) for kind in kinds}
    plain = (kind for kind in kinds if not issubclass(kind, torch.jit.ScriptModule))
    codes = (getattr(unwrap(kind.forward), "__code__", None) for kind in plain)
    return frozenset((*(getattr(m, "__file__", None) or "" for m in modules), *(c.co_filename for c in codes if c)))


@dataclass
class Followed:
    """Code that is followed: its jumps by offset, and the edges of them that compared runs took.

    `left` is how many edges were not taken, `lines` those of their jumps, and `own` whether the code is the model's.
    """

    code: CodeType
    jumps: dict[int, Jump]
    edges: set[Edge] = field(default_factory=set)
    left: int = 0
    own: bool = False
    lines: frozenset[int] = frozenset()

    @classmethod
    def of(cls, code: CodeType, files: Container[str]) -> "Followed":
        """Return what is to be followed of code: nothing of other code than a user's, and a library's in some files."""
        own = is_users(code) and (not _is_installed(code.co_filename) or code.co_filename in files)
        jumps = {jump.offset: jump for jump in jumps_of(code)} if own else {}
        return cls(code, jumps, left=2 * len(jumps), own=own, lines=_lines(code, jumps))

    def add(self, edges: set[Edge]) -> None:
        """Note edges that were taken."""
        self.edges |= edges
        left = [jump.offset for jump in self.jumps.values() for way in jump.ways if (jump.offset, way) not in self.edges]
        self.left, self.lines = len(left), _lines(self.code, left)


def _lines(code: CodeType, offsets: Collection[int]) -> frozenset[int]:
    """Return the lines on which instructions of code stand."""
    lines = code.co_lines() if offsets else ()
    return frozenset(line for start, end, line in lines if line and any(start <= offset < end for offset in offsets))


@dataclass
class Run:
    """The edges that one run took, by the id of the code."""

    edges: dict[int, set[Edge]] = field(default_factory=dict)


@dataclass
class Coverage:
    """The edges that were taken in compared runs.

    Attributes:
        followed: by the id of the code, what is followed of it.
        reached: by jump, inputs of the first run that got there.
        handed: what parameters of functions were given.
        files: files of installed libraries whose code is followed; that of others is not.
        blind: whether a tracer of someone else was there.
    """

    files: frozenset[str] = frozenset()
    followed: dict[int, Followed] = field(default_factory=dict)
    reached: dict[Jump, Any] = field(default_factory=dict)
    handed: Handed = field(default_factory=Handed)
    blind: bool = False

    @classmethod
    def of(cls, model: nn.Module, outer: frozenset[str] | None) -> "Coverage":
        """Return the coverage of a model before any run; `outer` are its arguments that a caller chooses, if not all."""
        return cls(files_of(model), handed=Handed(outer=outer))

    @contextmanager
    def watch(self) -> Iterator[Run]:
        """Watch the code that this thread runs inside of the `with` block."""
        run = Run()
        if sys.gettrace() is not None:
            self.blind = True
            yield run
            return
        begin(_stop)
        sys.settrace(self._tracer(run))
        try:
            yield run
        finally:
            finish(_stop)

    def add(self, run: Run, inputs: Any) -> None:
        """Note a run that was compared."""
        for key, edges in run.edges.items():
            known = self.followed[key]
            for offset in {start for start, _ in edges}:
                self.reached.setdefault(known.jumps[offset], inputs)
            if not edges <= known.edges:
                known.add(edges)

    def untaken(self) -> Iterator[tuple[Jump, bool]]:
        """Yield the jumps that went one way in all runs, each with the outcome of its condition that never came."""
        for known in list(self.followed.values()):
            for jump in known.jumps.values():
                open_ = [way for way in jump.ways if (jump.offset, way) not in known.edges]
                if len(open_) == 1 and jump in self.reached:
                    yield jump, jump.outcome(open_[0])

    def _tracer(self, run: Run) -> Any:
        followed, handed, files = self.followed, self.handed, self.files

        def called(frame: FrameType, event: str, argument: Any) -> Any:
            code = frame.f_code
            known = followed.get(id(code))
            if known is None:
                known = followed[id(code)] = Followed.of(code, files)
            if known.own:
                handed.note(frame, is_users)
            if not known.left:
                return None
            frame.f_trace_opcodes = frame.f_trace_lines = True
            return _stepper(known.jumps, known.lines, run.edges.setdefault(id(code), set()))

        return called


@contextmanager
def limited(lines: int = 200_000) -> Iterator[set[int]]:
    """Run code that may never end, such as a loop whose `break` was turned, up to so many lines of it.

    Returns:
        The ids of the code that ran, once it has.

    Raises:
        RecursionError: the code took more lines; Python raises this as well where calls of code never end.
    """
    ran = set[int]()
    if sys.gettrace() is not None:
        yield ran
        return
    left = [lines]

    def step(frame: FrameType, event: str, argument: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise RecursionError(f"more than {lines} lines were run")
        return step

    def called(frame: FrameType, event: str, argument: Any) -> Any:
        ran.add(id(frame.f_code))
        return step if is_users(frame.f_code) else None

    begin(_stop)
    sys.settrace(called)
    try:
        yield ran
    finally:
        finish(_stop)


@contextmanager
def unwatched() -> Iterator[None]:
    """Run code of which nothing is noted, such as calls before the one whose outputs are compared."""
    tracer = sys.gettrace()
    if getattr(tracer, "__module__", "") != __name__:
        yield
        return
    again = partial(sys.settrace, tracer)
    begin(again)
    sys.settrace(None)
    try:
        yield
    finally:
        finish(again)


def _stepper(jumps: Container[int], lines: Container[int], edges: set[Edge]) -> Callable[[FrameType, str, Any], Any]:
    """Return a tracer of one frame, which notes where it goes on after each jump.

    Instructions are followed on the `lines` of open jumps alone: each of them takes many times what it takes to run. Where
    a jump leaves its line, the beginning of the next one tells.
    """
    last = -1

    def step(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal last
        if event == "line":
            frame.f_trace_opcodes = _EACH or frame.f_lineno in lines
        elif event != "opcode":
            return step
        now = frame.f_lasti
        if last >= 0 and now != last:  # a line and its first instruction are one place
            edges.add((last, now))
        last = now if now in jumps else -1
        return step

    return step


def _stop() -> None:
    sys.settrace(None)
