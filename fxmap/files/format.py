"""A file format: the suffixes of its files, and the functions that read and write a state dict.

A new format is one module in `formats/` and one entry in `formats.FORMATS`.

>>> from collections.abc import Mapping
>>> lines = Format("lines", (".lines",), "nothing but keys", read=lambda path: dict.fromkeys(path.read_text().split()))
>>> print(lines)
lines (.lines): nothing but keys; read only
>>> lines.recognises(Path("model.lines")), lines.names(Path("model.txt"))
(True, False)
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxmap.errors import CheckpointError
from fxmap.files.limits import check_contents
from fxmap.files.strangers import stranger
from fxmap.files.unchanged import Stamp


class CannotHold(ValueError):
    """A format cannot store a value of a state dict; the message names the key, the reason, and a format that can."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format of checkpoint files.

    Attributes:
        name: for messages.
        suffixes: of its files' names.
        holds: the kinds of values that it can store, in words.
        read: reads a file, into memory of the CPU and without running code of it; returns what the file holds: a state
            dict, or containers of state dicts. Nothing that is done to the file later changes it. May raise
            CheckpointError alone.
        write: writes a state dict to a path, which `files.writing` makes a temporary one. Raises CannotHold, or one of
            `failures`. None for a format that is only read.
        failures: exceptions of its library where a file cannot be written, beside OSError and RuntimeError.
        any_name: whether files of other names may be of this format too, so that only reading tells.
        guard: looks at a file before it is read, and raises CheckpointError where reading it would fill the memory or never
            end; None for a format whose files cannot do that.
        lazy: as `read`, but tensors may be lazy (`files.lazy`); None where all of a file has to be read at once.
    """

    name: str
    suffixes: tuple[str, ...]
    holds: str
    read: Callable[[Path], Any]
    write: Callable[[Mapping[str, Any], Path], None] | None = None
    failures: tuple[type[Exception], ...] = ()
    any_name: bool = False
    guard: Callable[[Path], None] | None = None
    lazy: Callable[[Path], Any] | None = None

    def names(self, path: Path) -> bool:
        """Tell whether a path is named as files of this format are."""
        return path.name.endswith(self.suffixes)

    def recognises(self, path: Path) -> bool:
        """Tell whether a path may be of this format."""
        return self.any_name or self.names(path)

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.suffixes)}): {self.holds}{'' if self.write else '; read only'}"


def read_as(path: Path, formats: Iterable[Format], *, lazy: bool = False) -> Any:
    """Read a file in the first of some formats that recognises it; with `lazy`, tensors may be lazy.

    Raises:
        CheckpointError: none does, or the file is broken, or reading it would run code, or it was changed meanwhile.
    """
    if what := stranger(path):
        raise CheckpointError(f"{path}: {what}")
    for file_format in formats:
        if file_format.recognises(path):
            before = _stamp(path)
            if file_format.guard is not None:
                file_format.guard(path)
            data = (file_format.lazy if lazy and file_format.lazy else file_format.read)(path)
            before.check(path)
            check_contents(data, str(path), None if file_format.guard is None else before.size)
            return data
    raise CheckpointError(f"{path}: of no format that is known here")


def _stamp(path: Path) -> Stamp:
    try:
        return Stamp.of(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """Return the class of an error and the first line of its message.

    >>> reason_of(ValueError("no space left\\nat offset 3"))
    'ValueError: no space left'
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def is_text(path: Path) -> bool:
    """Tell whether a path can be handed to C++ and Rust, which want UTF-8: names of files are bytes, of any encoding.

    >>> is_text(Path("model.pth")), is_text(Path("model-" + chr(0xDCFF) + ".pth"))
    (True, False)
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
