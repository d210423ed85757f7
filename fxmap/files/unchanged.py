"""Unchanged: whether a file is the one that it was when something of it was read.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     path = Path(folder) / "a.pth"
...     _ = path.write_bytes(b"old")
...     stamp = Stamp.of(path)
...     _ = path.write_bytes(b"longer")
...     stamp.check(path)
Traceback (most recent call last):
...
fxmap.errors.CheckpointError: .../a.pth: it was changed while it was read, 3 bytes before and 6 now. Read it again ...
"""

import os
from dataclasses import dataclass
from pathlib import Path

from fxmap.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Stamp:
    """The size of a file, its time of modification, and its place on the disk."""

    size: int
    modified: int
    place: tuple[int, int]

    @classmethod
    def of(cls, file: Path | int) -> "Stamp":
        """Return the stamp of a file, by its path or its descriptor.

        Raises:
            OSError: there is no such file.
        """
        found = os.stat(file)
        return cls(found.st_size, found.st_mtime_ns, (found.st_dev, found.st_ino))

    def check(self, file: Path) -> None:
        """Check that a file is as it was.

        Raises:
            CheckpointError: it was written, cut, replaced or removed meanwhile.
        """
        try:
            now = Stamp.of(file)
        except OSError as error:
            raise CheckpointError(f"{file}: it is gone, or out of reach, since it was opened: {error}") from error
        if now != self:
            raise CheckpointError(
                f"{file}: it was changed while it was read, {self.size} bytes before and {now.size} now. Read it again when "
                "whoever writes it is done"
            )
