"""Output of the command line: text that cannot rule a terminal, JSON alone on stdout, and what models print on stderr.

>>> print(escaped("fc\\x1b[2Jweight"), one_line("a\\n\\x07b"))
fc\\x1b[2Jweight a \\x07b
>>> as_json({"error": float("inf"), "of": [float("nan"), 1.5]}, indent=None)
'{"error": "inf", "of": ["nan", 1.5]}'
"""

import json
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO

# What moves the cursor, changes colours, turns text round, or is no character: everything but a new line and a tab.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


class OutputError(Exception):
    """The result could not be written: stdout is closed, or its disk is full."""


def escaped(text: str) -> str:
    """Write characters that a terminal acts on as Python does, as in `\\x1b`; lines stay lines."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def folded(text: str, width: int | None = None) -> str:
    """Fold lines that are wider than the terminal, indented below their beginning; what is piped stays as it is.

    >>> print(folded("note: a line that goes on", 16))
    note: a line
        that goes on
    """
    if width is None:
        if sys.stdout is None or not sys.stdout.isatty():
            return text
        width = shutil.get_terminal_size().columns
    return "\n".join(_folded_line(line, width) for line in text.split("\n"))


def _folded_line(line: str, width: int) -> str:
    # A command that is to be pasted stays on one line, which the terminal wraps.
    if len(line) <= width or line.startswith("next: "):
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    fold = textwrap.TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return fold.fill(line)


def one_line(text: str) -> str:
    """Return a text on one line, escaped."""
    return escaped(" ".join(re.split("[ \t\n\r]+", text.strip())))


def with_names_escaped(text: str, data: Any) -> str:
    """Escape a report of lines, and the new lines and tabs in the keys that stand in it, which `data` names, as well."""
    for name in sorted(_names(data), key=len, reverse=True):
        text = text.replace(name, name.replace("\n", "\\n").replace("\t", "\\t"))
    return escaped(text)


def _names(data: Any) -> Iterator[str]:
    """Yield the keys in data of a report that would break a line: names in dicts, in lists, and of sources."""
    if isinstance(data, Mapping):
        for name, value in data.items():
            yield from _names([name])
            yield from _names([value] if name in ("key", "source") else value)
    elif isinstance(data, list | tuple):
        for value in data:
            if isinstance(value, str) and ("\n" in value or "\t" in value):
                yield value
            elif not isinstance(value, str):
                yield from _names(value)


def as_json(data: Any, indent: int | None = 1) -> str:
    """Write data as JSON, which has no infinities and no NaN: these are strings."""
    return json.dumps(_finite(data), indent=indent, default=str, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, Mapping):
        return {name: _finite(value) for name, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data


def write(text: str) -> None:
    """Write a line to stdout, whatever its encoding holds.

    Raises:
        OutputError: stdout is closed, or its disk is full.
    """
    stream = sys.stdout
    try:
        if stream is None:
            raise OSError("stdout is closed")
        stream.write(_in_encoding(text, stream) + "\n")
        stream.flush()
    except (OSError, ValueError) as error:
        _drop_buffered()
        raise OutputError(f"the result could not be written: {error}") from error


def tell(text: str) -> None:
    """Write a line to stderr, if there is one."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            sys.stderr.write(_in_encoding(text, sys.stderr) + "\n")
            sys.stderr.flush()


def _in_encoding(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _drop_buffered() -> None:
    """Let Python flush what it still holds for stdout into nothing, instead of failing again when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Send what is printed within to stderr, by Python or by code below it: stdout is for the result.

    >>> with prints_to_stderr():
    ...     print("building")
    """
    kept = _redirected()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)


def _redirected() -> int | None:
    """Point the descriptor of stdout to stderr; returns a copy of it, or None where Python's stdout has none."""
    try:
        if sys.stdout is None or sys.stdout.fileno() != 1:
            return None
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    except (OSError, ValueError):
        return None
    return kept


def hold_descriptors() -> None:
    """Open stdin, stdout and stderr to nothing where the caller closed them.

    A file that is opened later would get their numbers, and whatever is printed would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, which is this one.
            os.open(os.devnull, os.O_RDWR)


def seal() -> None:
    """Send what is printed from now on to stderr: the result is out, and what a model prints at the exit is none of it."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    with suppress(OSError, ValueError):
        os.dup2(2, 1)
