"""Faults: bugs of fxmap, told apart from what a model or the system raises, and said as such.

Whatever a model's own code raises is an answer about that model. An exception that begins in fxmap is a bug. Where other
stages can answer, a `FaultWarning` names the stage, and the mapping keeps it as a note; where none can, the caller gets an
`InternalError` with the exception as its cause. Nothing is swallowed: a mapping of the stages that were left looks like any
other.

>>> @bounded
... def careless(shape):
...     return shape[9]
>>> careless((1, 2))
Traceback (most recent call last):
...
IndexError: tuple index out of range
>>> from fxmap.expressions.layout import take
>>> def into_fxmap():
...     return take(None, (), 3)
>>> bounded(into_fxmap)()
Traceback (most recent call last):
...
IndexError: tuple index out of range

Both came through code of the user's own. What begins in fxmap, and has no such code on its way, is a fault:

>>> is_fault(RuntimeError("raised nowhere"))
False

Cost: nothing where nothing is raised.
"""

import functools
import logging
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import ParamSpec, TypeVar

import torch

import fxmap.errors as fxmap_errors
from fxmap.errors import FaultWarning, FxmapError, InternalError
from fxmap.model.restoring import let_through

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_OURS = f"{Path(fxmap_errors.__file__).parent}{os.sep}"
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_STANDARD = f"{sysconfig.get_paths()['stdlib']}{os.sep}"

# What fxmap calls, and what calls nothing of the user's.
_TOOLS = ("networkx", "numpy", "scipy", "safetensors")

# Parts of torch that run a model: its layers, its graphs, its compiled and exported forms.
_RUNS_MODELS = tuple(
    f"{_TORCH}{part}{os.sep}"
    for part in ("nn", "fx", "jit", "export", "ao", "autograd", "_functorch", "_dynamo", "_higher_order_ops")
)


def is_fault(error: BaseException) -> bool:
    """Whether an exception is a bug of fxmap: raised by it, or by what it calls, without any code of a model in between.

    Memory that runs out and errors of the system are none, nor is what fxmap raises on purpose, nor a warning that the user
    has turned into an exception.
    """
    if isinstance(error, InternalError):
        return True
    if isinstance(error, FxmapError | MemoryError | OSError | Warning) or _is_full(error):
        return False
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(file.startswith(_OURS) for file in files) and all(map(_is_tool, files))


def _is_full(error: BaseException) -> bool:
    """Whether torch says that memory ran out: of a device by a class of its own, of the machine by words alone."""
    in_words = isinstance(error, RuntimeError) and "can't allocate memory" in said(error)
    return in_words or isinstance(error, torch.OutOfMemoryError)


def _is_tool(file: str) -> bool:
    """Whether a file is fxmap's, or one that it calls, and runs no code of models."""
    if file.startswith(_OURS) or file.startswith("<frozen"):
        return True
    if file.startswith(_TORCH):
        return not file.startswith(_RUNS_MODELS)
    packages = f"{os.sep}site-packages{os.sep}"
    if packages in file:
        return file.rpartition(packages)[2].partition(os.sep)[0] in _TOOLS
    return file.startswith(_STANDARD)


def words(error: BaseException) -> str:
    """Return an exception in one line: its kind, unless it is fxmap's own, and the first line of its text.

    torch adds dumps of graphs to it.

    >>> words(ValueError("of another size\\n\\nWhile executing %add"))
    'ValueError: of another size'
    """
    lines = [line.strip() for line in said(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[0] if isinstance(error, FxmapError) else f"{type(error).__name__}: {lines[0]}"


def said(error: BaseException) -> str:
    """Return the text of an exception; empty where its own code fails to tell it."""
    try:
        return str(error)
    except Exception as failure:
        let_through(failure)
        return ""


_FOUND: ContextVar[list[str] | None] = ContextVar("fxmap_faults", default=None)


@contextmanager
def gathered() -> Iterator[list[str]]:
    """Collect what is said of faults inside the `with` block, in this thread."""
    found: list[str] = []
    token = _FOUND.set(found)
    try:
        yield found
    finally:
        _FOUND.reset(token)


def left(stage: str, error: BaseException) -> str:
    """Return, for a stage that failed, the reason why it is left; where that is a fault, it is said in a warning, too."""
    reason = f"{stage} failed: {words(error)}"
    if not is_fault(error):
        logger.info("%s", reason)
        return reason
    logger.error("%s; please report this", reason, exc_info=error)
    text = f"a fault of fxmap: {reason}{_place(error)}; what follows rests on the other stages. Please report it"
    found = _FOUND.get()
    if found is not None:
        found.append(text)
    warnings.warn(FaultWarning(text), stacklevel=_level())
    return reason


def bounded(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return a function that raises an InternalError, with its cause, where a fault would end it.

    What the user's own code raises (a forward, batches, a function) comes through as it is.
    """

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            let_through(error)
            if isinstance(error, FxmapError) or not is_fault(error) or _is_of_the_call(error):
                raise
            raise InternalError(
                f"fxmap.{function.__name__}: a fault of fxmap, not of yours: {words(error)}{_place(error)}. Please report "
                "it with this traceback, and with the models if you may"
            ) from error

    return call


def _is_of_the_call(error: BaseException) -> bool:
    """Whether an exception says that a function was called with arguments that it does not have."""
    step = error.__traceback__
    depth = 0
    while step is not None:
        depth, step = depth + (step.tb_frame.f_code.co_filename not in (__file__, _WRAPPERS)), step.tb_next
    return depth == 0


# Where the other function stands that wraps those of the user.
_WRAPPERS = str(Path(__file__).with_name("surroundings.py"))


def _place(error: BaseException) -> str:
    """Name the line of fxmap at which an exception was raised."""
    own = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename.startswith(_OURS)
    ]
    return f", at fxmap/{own[-1][0].removeprefix(_OURS)}:{own[-1][1]}" if own else ""


def place_of_user(error: BaseException) -> str:
    """Name the last line outside of fxmap and torch at which an exception passed: that of the user's own code."""
    frames = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith((_OURS, _TORCH, "<"))
    ]
    return f", at {frames[-1][0]}:{frames[-1][1]}" if frames else ""


def _level() -> int:
    """Return how many frames up the user's own line is, for a warning that the caller gives."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and (frame.f_code.co_filename.startswith(_OURS) or "contextlib" in frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    return level
