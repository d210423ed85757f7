"""The trace: which stages ran, with their results and times, and why a strategy was given up for the next.

Every stage reports itself. A `recording` keeps the reports of the stages inside it, per thread; without one, reports cost
nothing.

>>> with recording() as steps:
...     with stage("structure") as note:
...         note(left="one operation has no counterpart")
...         with stage("align") as inner:
...             inner("3 of 4 operations")
>>> print(Trace(tuple(steps)))  # doctest: +ELLIPSIS
structure; left, since one operation has no counterpart (... s)
  align: 3 of 4 operations (... s)
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Step:
    """One stage that ran: its result in words, and its own processor time, without that of the stages inside it.

    `left` says why a strategy was given up for the next one, or why a stage failed; empty where neither. `operations` is
    the size of the graph that a stage made, where it makes one; `depth` counts the stages around this one.
    """

    stage: str
    found: str = ""
    left: str = ""
    seconds: float = 0.0
    operations: int = 0
    depth: int = 0

    def __str__(self) -> str:
        what = f": {self.found}" if self.found else ""
        return f"{self.stage}{what}{f'; left, since {self.left}' if self.left else ''} ({self.seconds:.2f} s)"


@dataclass(frozen=True)
class Trace:
    """The steps that led to a mapping, in the order in which they began."""

    steps: tuple[Step, ...] = ()

    def seconds(self) -> dict[str, float]:
        """Return the processor time of each stage in seconds, in the order in which the stages first ran."""
        total: dict[str, float] = {}
        for step in self.steps:
            total[step.stage] = total.get(step.stage, 0.0) + step.seconds
        return total

    @property
    def operations(self) -> int:
        """The number of operations in the largest graph that any stage made."""
        return max((step.operations for step in self.steps), default=0)

    def __str__(self) -> str:
        return "\n".join(f"{'  ' * step.depth}{step}" for step in self.steps)


@dataclass(slots=True)
class _Recorder:
    steps: list[Step] = field(default_factory=list)
    # Seconds of the stages inside each stage that is running, the outermost first.
    inner: list[float] = field(default_factory=list)


_RECORDER: ContextVar[_Recorder | None] = ContextVar("fxmap_trace", default=None)


@contextmanager
def recording() -> Iterator[list[Step]]:
    """Collect the steps of every stage that runs inside the `with` block, in this thread."""
    recorder = _Recorder()
    token = _RECORDER.set(recorder)
    try:
        yield recorder.steps
    finally:
        _RECORDER.reset(token)


class Note:
    """The handle by which a running stage reports: `note("3 of 4 operations")`, `note(left="why it was given up")`."""

    def __init__(self) -> None:
        self.found, self.left, self.operations = "", "", 0

    def __call__(self, found: str = "", *, left: str = "", operations: int = 0) -> None:
        """Set the given fields of the report; an empty argument leaves its field as it was."""
        self.found, self.left = found or self.found, left or self.left
        self.operations = operations or self.operations


@contextmanager
def stage(name: str) -> Iterator[Callable[..., None]]:
    """Record the `with` block as a stage: its processor time, its notes, and the error that ended it, if any."""
    recorder, note = _RECORDER.get(), Note()
    if recorder is None:
        yield note
        return
    place, depth = len(recorder.steps), len(recorder.inner)
    # The place among the steps is that of the beginning, so that a stage stands before those inside it.
    recorder.steps.append(Step(name, depth=depth))
    recorder.inner.append(0.0)
    start = time.process_time()
    try:
        yield note
    except Exception as error:
        note(left=str(error) or type(error).__name__)
        raise
    finally:
        took = time.process_time() - start
        own = took - recorder.inner.pop()
        if recorder.inner:
            recorder.inner[-1] += took
        recorder.steps[place] = Step(name, note.found, note.left, own, note.operations, depth)
