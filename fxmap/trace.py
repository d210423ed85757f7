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

The same reports are progress, for somebody who waits:

>>> with progress(lambda event: print(event.stage)), stage("align"):
...     pass
align
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class Event:
    """How far a mapping is: its stage, the share that is done (0 to 1), and the seconds that are left where that is known.

    Both numbers are estimates: how long a proof takes depends on what the models do.
    """

    stage: str
    share: float
    seconds_left: float | None = None

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {self.seconds_left:.0f} s left"
        return f"{self.stage}: {self.share:.0%}{left}"


# The share that is usually done when a stage begins, of a mapping with a proof.
_BEGUN = {"capture": 0.0, "build": 0.03, "normalise": 0.05, "align": 0.12, "derive": 0.17, "search": 0.2, "prove": 0.25}
_BEGUN["fill the destination"] = _FILLED = 0.9

# The passes that most proofs take.
_USUAL = 45


def _silent(event: Event) -> None:
    """Report nothing."""


@dataclass(slots=True)
class _Watch:
    """Turns stages and passes into events, whose share never falls while one mapping is made."""

    report: Callable[[Event], None]
    share: float = 0.0
    passes: int = 0
    since: float = 0.0

    def begin(self, name: str) -> None:
        if name in ("capture", "prove"):
            self.passes = 0
        self.share = max(self.share, _BEGUN.get(name, self.share))
        self.tell(Event(name, self.share))

    def count(self, number: int) -> None:
        """Count passes of a proof."""
        if not self.passes:
            # The time before the first passes went into preparing them.
            self.since = time.monotonic()
        self.passes += number
        self.share = max(self.share, _BEGUN["prove"] + (_FILLED - _BEGUN["prove"]) * min(self.passes / _USUAL, 1.0))
        each = (time.monotonic() - self.since) / self.passes
        left = each * (_USUAL - self.passes) if 5 <= self.passes < _USUAL else None
        self.tell(Event(f"prove, forward pass {self.passes}", self.share, left))

    def tell(self, event: Event) -> None:
        """Report an event; a function that raises is not asked again, for it must not change what a proof finds."""
        try:
            self.report(event)
        except Exception as error:
            logger.warning("progress is no longer reported, since the function raised %r", error)
            self.report = _silent


_WATCH: ContextVar[_Watch | None] = ContextVar("fxmap_progress", default=None)


@contextmanager
def progress(report: Any) -> Iterator[None]:
    """Report the progress of every call of fxmap inside the `with` block, in this thread; without it there is no report.

    Args:
        report: a function, called with an `Event` whenever a stage begins and with every pass of a proof; or a bar with
            `update` and `set_description`, such as `tqdm.tqdm(total=100)`.

    >>> import fxmap, torch
    >>> events = []
    >>> with fxmap.progress(events.append):
    ...     mapping = fxmap.auto_map(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    >>> events[0].stage, events[-1].share > 0.25
    ('structure, by symbolic trace', True)
    """
    if not callable(report) and not hasattr(report, "set_description"):
        raise TypeError(f"progress takes a function of an event, or a bar such as tqdm's, not {type(report).__name__}")
    token = _WATCH.set(_Watch(_for_bar(report) if hasattr(report, "set_description") else report))
    try:
        yield
    finally:
        _WATCH.reset(token)


def _for_bar(bar: Any) -> Callable[[Event], None]:
    done = 0.0

    def report(event: Event) -> None:
        nonlocal done
        reached = event.share * float(bar.total or 1)
        bar.set_description(event.stage)
        bar.update(max(reached - done, 0.0))
        done = max(done, reached)

    return report


def count_passes(number: int) -> None:
    """Report forward passes of a proof to whoever watches."""
    if (watch := _WATCH.get()) is not None:
        watch.count(number)


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
    if (watch := _WATCH.get()) is not None:
        watch.begin(name)
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
