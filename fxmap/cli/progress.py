"""Progress on stderr, of anything that takes longer than a few seconds: a bar on a terminal, else lines."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fxmap.cli.output import escaped, tell
from fxmap.trace import Event

# What shows progress: called with the share that is done, the step in words, and details.
Report = Callable[..., None]

# A command that is done sooner says nothing of its progress.
PATIENCE = 2.0


@contextmanager
def progress(patience: float | None = None) -> Iterator[Report]:
    """Show progress on stderr: a bar on a terminal, else one line for each step, unless all is done in a few seconds."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield _Lines(PATIENCE if patience is None else patience)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn())
    # Results go to stdout, which may be a file: it must not be redirected into the bar.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
    with bar:
        task = bar.add_task("", total=1.0, detail="")
        yield lambda share, text, detail="": bar.update(task, completed=share, description=text, detail=detail)


class _Lines:
    """Prints a line for each new step, and one for each further quarter of its progress, after the first seconds."""

    def __init__(self, patience: float) -> None:
        self.text = ""
        self.quarter = -1
        self.begins = time.monotonic() + patience

    def __call__(self, share: float, text: str, detail: str = "") -> None:
        if time.monotonic() < self.begins:
            return
        # "forward pass 7" is the step "forward pass" again.
        step, quarter = text.rstrip("0123456789"), int(share * 4)
        if step != self.text or quarter != self.quarter:
            tell(escaped(f"{text}: {detail}" if detail else text))
        self.text, self.quarter = step, quarter


def shown(report: Report) -> Callable[[Event], None]:
    """Return a function that shows the events of a mapping."""

    def show(event: Event) -> None:
        left = "" if event.seconds_left is None else f"about {event.seconds_left:.0f} s left"
        report(event.share, event.stage, left)

    return show
