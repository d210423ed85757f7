"""Read checkpoint files without running their code."""

from pathlib import Path
from typing import Any

from fxmap.errors import CheckpointError
from fxmap.files.format import read_as
from fxmap.files.formats import FORMATS


def read_file(path: Path) -> Any:
    """Read the contents of a checkpoint file onto the CPU, in the first format that recognises its name.

    Raises:
        CheckpointError: the file is absent or broken, or reading it would run code.
    """
    if not path.is_file():
        hint = "; a folder: name the file in it, such as one that ends in .index.json" if path.is_dir() else ""
        raise CheckpointError(f"{path}: no such file{hint}")
    return read_as(path, FORMATS)
