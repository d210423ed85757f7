"""Output: the folder that a conversion writes; it takes the place of nothing but a checkpoint that another one wrote.

One conversion at a time writes a folder: it holds a lock on `.NAME.lock` beside it, which the system gives back if it is
killed. What it writes lies in `.NAME.partial` until it is whole.
"""

import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fxmap.errors import CheckpointError
from fxmap.files.atomic import already_there, sync
from fxmap.files.format import reason_of

if sys.platform != "win32":  # there two conversions are not kept apart
    import fcntl

# The files of a folder that a conversion writes, in either layout.
_OWN = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|\.metadata|__\d+_\d+\.distcp")

# Unlike the end of "Qwen2.5-0.5B", or of "llama-3.1".
_SUFFIX = re.compile(r"\.[A-Za-z]\w*")


def is_folder(output: Path) -> bool:
    """Tell whether an output is a folder: one that is there, or a name without the suffix of a file.

    >>> [is_folder(Path(name)) for name in ("converted", "llama-3.1", "Qwen2.5-0.5B", "new.pth", "new.ckpt")]
    [True, True, True, False, False]
    """
    return os.path.isdir(output) or not _SUFFIX.fullmatch(output.suffix)


def folder_for(output: Path, sources: Iterable[Path], *, overwrite: bool) -> Path:
    """Return the folder that an output leads to, through symbolic links; it may be written.

    Raises:
        CheckpointError: its name is that of a file; it is a file, has one of `sources` in it, is there and may not be
            overwritten, or holds what no conversion writes; or there can be no such folder.
    """
    if not is_folder(output):
        raise CheckpointError(
            f"{output}: this is the name of a file, and shards are written into a folder: give a name without a suffix. For "
            "one file, fxmap.load the weights into dst and torch.save its state dict, or use `fxmap convert --output FILE` "
            "on the command line; for an .onnx or .pt2 file, give dst the path of the file whose graph it is to have"
        )
    try:
        place = Path(os.path.realpath(output))
        if not stat.S_ISDIR(os.stat(place).st_mode):
            raise CheckpointError(f"{output}: it is a file, which is not replaced by a folder. Choose another name")
    except FileNotFoundError:
        return place
    except (OSError, ValueError) as error:
        raise _unwritable(output, error) from error
    for source in sources:
        if _holds(place, source):
            raise CheckpointError(
                f"{output}: it holds the source, {source.name}, which would be lost when the folder is replaced. Choose "
                "another folder"
            )
    refuse_taken(place, output, overwrite=overwrite)
    return place


def _holds(folder: Path, file: Path) -> bool:
    """Whether a file, or what it leads to, lies in a folder, at any depth."""
    parents = {*Path(os.path.abspath(file)).parents, *Path(os.path.realpath(file)).parents}
    return any(os.path.samefile(folder, parent) for parent in parents)


def refuse_taken(place: Path, named: Path | None = None, *, overwrite: bool) -> None:
    """Raise a CheckpointError where a folder is there, and may not be replaced: unasked, or with what is no checkpoint."""
    if not os.path.lexists(place):
        return
    if not overwrite:
        raise already_there(named or place)
    foreign = _foreign(place)
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise CheckpointError(
            f"{named or place}: it holds {foreign[0]}{more}, which no conversion writes, and which would be lost. Choose "
            "another folder"
        )


def _foreign(folder: Path) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(each.name for each in found if not (each.is_file(follow_symlinks=False) and _OWN.fullmatch(each.name)))


@contextmanager
def being_written(place: Path) -> Iterator[Path]:
    """Give the folder in which an output is made, and keep other conversions from it meanwhile.

    Raises:
        CheckpointError: another one writes it; or the folder beside it cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked(place.parent / f".{place.name}.lock")
    except (OSError, ValueError) as error:
        raise _unwritable(place, error) from error
    if handle is None:
        raise CheckpointError(f"{place}: another conversion writes it now. Wait for it, or choose another folder")
    try:
        yield place.parent / f".{place.name}.partial"
    finally:
        with suppress(OSError):
            os.unlink(place.parent / f".{place.name}.lock")
        os.close(handle)


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds the lock of a file, or None where another one holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if sys.platform == "win32":
                return handle
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one that held it may have removed the file since it was opened.
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:  # a file system without locks
            return handle
        os.close(handle)


def _unwritable(output: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{output}: cannot be written: {reason_of(error)}")


def take_place(partial: Path, place: Path, *, overwrite: bool) -> None:
    """Bring a folder to the disk, and rename it; of what was there, the files of a checkpoint go when that is done.

    Raises:
        CheckpointError: somebody else has written there meanwhile.
        OSError: it cannot be renamed; what was there is there again.
    """
    old = place.parent / f".{place.name}.old"
    _sync_names(partial)
    refuse_taken(place, overwrite=overwrite)
    moved = place.exists()
    if moved:
        _remove(old)  # of a conversion that was killed here
        shutil.copymode(place, partial)
        os.replace(place, old)
    try:
        os.replace(partial, place)
    except BaseException:
        if moved and not place.exists():
            os.replace(old, place)
        raise
    _sync_names(place.parent)
    _remove(old)


def _sync_names(folder: Path) -> None:
    with suppress(OSError):  # where a system can do that for folders
        sync(folder)


def _remove(folder: Path) -> None:
    """Remove a folder of a checkpoint; never anything else that has come into it."""
    with suppress(OSError):
        for each in list(os.scandir(folder)):
            if _OWN.fullmatch(each.name) and each.is_file(follow_symlinks=False):
                os.unlink(each)
        os.rmdir(folder)
