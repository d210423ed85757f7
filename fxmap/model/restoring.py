"""Put things back, whatever interrupts: steps that are all carried out, and exceptions that are never swallowed.

>>> done = []
>>> def interrupted():
...     done.append("tried")
...     if len(done) == 1:
...         raise KeyboardInterrupt
>>> try:
...     carry_out([interrupted, lambda: done.append("the next one")])
... except KeyboardInterrupt:
...     print(done)
['tried', 'tried', 'the next one']
"""

import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

# A step that fails so often is left, so that the others are carried out.
_TRIES = 3


def carry_out(steps: Iterable[Callable[[], object]]) -> None:
    """Carry out every step; one that is interrupted is tried again, and what interrupted it is raised at the end.

    A step must do no harm if it runs twice.
    """
    caught = tried(steps).error
    if caught is not None:
        raise caught


@dataclass(frozen=True)
class Tried:
    """The steps that failed whenever they were tried, by place, and the first exception: an interrupt, if one came."""

    failed: tuple[int, ...] = ()
    error: BaseException | None = None


def tried(steps: Iterable[Callable[[], object]]) -> Tried:
    """Carry out every step, several times where it fails, and raise nothing."""
    left, place, tries = list(steps), 0, 0
    failed: list[int] = []
    errors: list[BaseException] = []
    while place < len(left):
        try:
            while place < len(left):
                left[place]()
                place, tries = place + 1, 0
        except BaseException as error:  # an interrupt comes between any two lines
            errors.append(error)
            tries += 1
            if tries >= _TRIES:
                failed.append(place)
                place, tries = place + 1, 0
    interrupts = [error for error in errors if not isinstance(error, Exception)]
    return Tried(tuple(failed), next(iter([*interrupts, *errors]), None))


class _Unfinished(threading.local):
    """The steps of this thread that are still to be carried out."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], object]] = []


_UNFINISHED = _Unfinished()


def begin(step: Callable[[], object]) -> None:
    """Note a step that must be carried out, even if an interrupt comes before the line that would."""
    _UNFINISHED.steps.append(step)


def finish(step: Callable[[], object]) -> None:
    """Carry out a step that was noted."""
    step()
    if step in _UNFINISHED.steps:
        _UNFINISHED.steps.remove(step)


def finish_all() -> None:
    """Carry out all steps that interrupts left."""
    while _UNFINISHED.steps:
        finish(_UNFINISHED.steps[-1])


def let_through(error: BaseException) -> None:
    """Raise an exception again that is no answer of a model: one of an alarm, or that a signal handler raised.

    Code that tries whether a model runs calls this first, for whatever it catches.
    """
    if not isinstance(error, Exception) or isinstance(error, TimeoutError) or _is_of_a_handler(error):
        raise error


def _is_of_a_handler(error: BaseException) -> bool:
    """Whether a signal handler of Python stands in the traceback of an exception."""
    codes = {getattr(handler, "__code__", None) for number in signal.valid_signals() if (handler := _handler(number))}
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code in codes:
            return True
        step = step.tb_next
    return False


def _handler(number: int) -> object:
    try:
        found = signal.getsignal(number)
    except ValueError:  # a number that this system does not know
        return None
    return getattr(found, "__func__", found) if callable(found) else None
