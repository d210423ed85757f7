"""The trace: which stages ran, in what order, what each found, how long it took, and why a strategy was left.

Every stage reports itself. What is reported inside a `recording` is kept there, per thread; outside of one it costs nothing.

>>> with recording() as steps:
...     with stage("align") as note:
...         note("3 of 4 operations")
>>> print(Trace(tuple(steps)))  # doctest: +ELLIPSIS
align: 3 of 4 operations (... s)
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Step:
    """One stage that ran: what it found, and the seconds of the processor that it took, without those of stages inside it.

    `left` says why a strategy was given up for the next one; empty where it was not.
    """

    stage: str
    found: str = ""
    left: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        what = f": {self.found}" if self.found else ""
        return f"{self.stage}{what}{f'; left, since {self.left}' if self.left else ''} ({self.seconds:.2f} s)"


@dataclass(frozen=True)
class Trace:
    """The steps that led to a mapping, in the order in which they ended."""

    steps: tuple[Step, ...] = ()

    def seconds(self) -> dict[str, float]:
        """Return the seconds of the processor that each stage took, in the order in which the stages first ran."""
        total: dict[str, float] = {}
        for step in self.steps:
            total[step.stage] = total.get(step.stage, 0.0) + step.seconds
        return total

    def __str__(self) -> str:
        return "\n".join(map(str, self.steps))


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


@contextmanager
def stage(name: str) -> Iterator[Callable[..., None]]:
    """Report a stage: what the `with` block takes, and what it notes, as in `note("found")` or `note(left="reason")`."""
    recorder = _RECORDER.get()
    texts = {"found": "", "left": ""}

    def note(found: str = "", *, left: str = "") -> None:
        texts.update({key: value for key, value in (("found", found), ("left", left)) if value})

    if recorder is None:
        yield note
        return
    recorder.inner.append(0.0)
    start = time.process_time()
    try:
        yield note
    finally:
        took = time.process_time() - start
        own = took - recorder.inner.pop()
        if recorder.inner:
            recorder.inner[-1] += took
        recorder.steps.append(Step(name, texts["found"], texts["left"], own))
