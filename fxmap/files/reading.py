"""Read checkpoint files without running their code."""

from pathlib import Path
from typing import Any

from fxmap.errors import CheckpointError
from fxmap.files.format import read_as
from fxmap.files.formats import FORMATS
from fxmap.files.strangers import file_in


def read_file(path: Path) -> Any:
    """Read what a checkpoint file holds, on the CPU, in the format that its name says; of a folder, the checkpoint in it.

    Raises:
        CheckpointError: the file is absent or broken, or reading it would run code.
    """
    if path.is_dir():
        found = file_in(path)
        if isinstance(found, str):
            raise CheckpointError(f"{path}: no such file; {found}")
        path = found
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return read_as(path, FORMATS)
