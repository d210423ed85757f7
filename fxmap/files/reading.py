"""Read checkpoint files without running their code."""

from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from fxmap.errors import CheckpointError
from fxmap.files.format import read_as, reason_of
from fxmap.files.formats import FORMATS
from fxmap.files.strangers import file_in


def read_file(path: Path, *, lazy: bool = False) -> Any:
    """Read the contents of a checkpoint file onto the CPU, in the first format that recognises its name.

    Of a folder, the checkpoint in it is read. With `lazy`, tensors of the file are lazy where its format allows that.

    Raises:
        CheckpointError: the file is absent or broken, or reading it would run code.
    """
    return read_as(existing(path), FORMATS, lazy=lazy)


def existing(path: Path) -> Path:
    """Return the file at a path, or the checkpoint in the folder there.

    Raises:
        CheckpointError: there is none; the message says what a folder is that holds none.
    """
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise CheckpointError(f"{path}: no such file: {reason_of(error)}") from error
    if is_folder:
        found = file_in(path)
        if isinstance(found, str):
            raise CheckpointError(f"{path}: no checkpoint; it is {found}")
        return found
    if not is_file:
        raise CheckpointError(f"{path}: no such file{_beside(path)}")
    return path


def _beside(path: Path) -> str:
    """Name the file beside a path whose name is closest, or the first part of the path that is no folder."""
    try:
        if not path.parent.is_dir():
            return f"; there is no folder {path.parent}"
        close = get_close_matches(path.name, [other.name for other in islice(path.parent.iterdir(), _MOST)], n=1)
    except OSError:
        return ""
    return f"; the closest beside it is {close[0]}" if close else ""


# So many names of a folder are compared.
_MOST = 10_000
