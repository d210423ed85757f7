"""Atomic files: what is written appears under its name when it is complete, or not at all.

A file in a temporary folder beside the name is written, brought to the disk, and then given the name: by a link where
nothing may be overwritten, which fails if somebody else was faster, or by a rename. The folder's name has the writer's
process in it: the next one to write there removes those whose writer was killed.
"""

import errno
import hashlib
import os
import platform
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fxmap.errors import CheckpointError
from fxmap.files.format import reason_of

# Then follow the machine, the process, and what makes the name its own.
_PREFIX = ".fxmap-part-"

# Seconds after which a folder is abandoned, whoever made it: of processes on other machines nothing is known.
_OLD = 7 * 86_400.0


@contextmanager
def whole_file(path: Path, failures: tuple[type[Exception], ...] = (OSError,), *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary file that takes its place at `path` when the block ends, and is gone if the block fails.

    A symbolic link is followed, and the file that it leads to is written. A file that is overwritten keeps its permissions.

    Raises:
        CheckpointError: for one of `failures`; where there can be no file; where there is one already, and `overwrite` is
            not said, also if somebody else writes it meanwhile. What was at `path` is as it was.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole_file(Path(folder) / "a", overwrite=False) as temporary:
    ...         _ = temporary.write_text("all of it")
    ...     (Path(folder) / "a").read_text(), os.listdir(folder)
    ('all of it', ['a'])
    """
    try:
        place = _place(path, overwrite)
        if not place.parent.is_dir():
            raise CheckpointError(f"{path}: cannot be written: there is no folder {place.parent}. Make it first")
        remove_abandoned(place.parent)
        folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{_machine()}-{os.getpid()}-", dir=place.parent)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be written: {reason_of(error)}") from error
    try:
        temporary = Path(folder) / f"whole{path.suffix}"
        yield temporary
        os.chmod(temporary, _mode(place))
        sync(temporary)
        _publish(temporary, place, overwrite)
        with suppress(OSError):  # the name, where a system can do that for folders
            sync(place.parent)
    except FileExistsError as error:
        raise already_there(path) from error
    except failures as error:
        raise CheckpointError(f"{path}: cannot be written: {reason_of(error)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def already_there(path: Path) -> CheckpointError:
    """Return the error for a name that is taken."""
    return CheckpointError(f"{path}: there already, not overwritten. Choose another name, or say overwrite=True (--force)")


def _place(path: Path, overwrite: bool) -> Path:
    """Return the file that a path leads to, through symbolic links; it may be written.

    Raises:
        CheckpointError: something is there that may not be overwritten, or is no file.
        OSError: links lead in a circle, or the folder is out of reach.
    """
    place = Path(os.path.realpath(path))
    try:
        found = os.stat(place)
    except FileNotFoundError:
        return place
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path}: cannot be written: it is no file, and would be replaced by one")
    if not overwrite:
        raise already_there(path)
    return place


def _mode(place: Path) -> int:
    """Return the permissions of the file that is overwritten, or those that a new file has."""
    try:
        return stat.S_IMODE(os.stat(place).st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _publish(temporary: Path, place: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(temporary, place)
        return
    try:
        os.link(temporary, place)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        # A file system without links: the name is taken first, by an empty file that nobody else can make.
        os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(temporary, place)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove the temporary folders of processes that were killed while they wrote into a folder; returns these."""
    removed = []
    for path in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            machine, _, rest = path.name.removeprefix(_PREFIX).partition("-")
            process = rest.partition("-")[0]
            dead = machine == _machine() and process.isdecimal() and _is_dead(int(process))
            if dead or time.time() - path.lstat().st_mtime > _OLD:
                shutil.rmtree(path)
                removed.append(path)
    return removed


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_dead(process: int) -> bool:
    """Whether a process of this machine has ended; False where that cannot be asked."""
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
