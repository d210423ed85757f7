"""Growth: files of torch.save that would keep torch's reader busy, or fill the memory, refused before it sees them."""

import zipfile
from pathlib import Path

from fxmap.errors import CheckpointError
from fxmap.files.limits import Limits, current
from fxmap.files.pickles import TooMuch, check_pickle

# Of the format before torch 1.6: a magic number, a version, the system, the values, the storages.
_OLD_PICKLES = 5


def refuse_growth(path: Path) -> None:
    """Refuse a zip whose members expand beyond the limits, and a pickle of tuples that are nested beyond them.

    A broken file passes: its reader says more of what is broken.

    Raises:
        CheckpointError: the file would grow; the message says to what, and how to allow it.

    Cost: the pickles of the file are read once, which hold its keys and no tensors.
    """
    try:
        if zipfile.is_zipfile(path):
            _check_zip(path, current())
        else:
            with path.open("rb") as stream:
                for _ in range(_OLD_PICKLES):
                    if not check_pickle(stream, current()):
                        break
    except TooMuch as error:
        raise CheckpointError(
            f"{path}: refused: {error}. Save model.state_dict() alone, or allow it: "
            "fxmap.file_limits(depth=..., entries=...)"
        ) from error
    except CheckpointError:
        raise
    except Exception:
        return  # zipfile fails on damage in whatever way its bytes say


def _check_zip(path: Path, limits: Limits) -> None:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        whole = sum(member.file_size for member in members)
        if whole > limits.allowed(size):
            raise CheckpointError(
                f"{path}: {size:,} bytes that would become {whole:,} in memory: its parts are compressed, which torch.save "
                "does not do. Unpack it with a tool that you trust, or allow it: fxmap.file_limits(expansion=...)"
            )
        for member in members:
            if member.filename.rpartition("/")[2] == "data.pkl":
                with archive.open(member) as stream:
                    check_pickle(stream, limits)
