"""Write a state dict to a file, whole or not at all."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fxmap.errors import CheckpointError
from fxmap.files.format import CannotHold, reason_of
from fxmap.files.formats import FORMATS


def save(state: Mapping[str, Any], path: str | Path, *, overwrite: bool = False) -> None:
    """Write a state dict to a .safetensors file, or as torch.save does (.pt, .pth, .bin); atomically.

    Dtypes are kept, and so are quantized tensors: .safetensors holds their integers, scales, zero points and axis, and what
    `open_checkpoint` rebuilds of them is equal bit for bit. `_metadata` is kept. Keys that share a tensor stay tied in a
    file of torch.save; in .safetensors, which has no such thing, each has its own copy. The file appears under its name when
    it is complete.

    Raises:
        CheckpointError: the file is there already, its name ends in something else, or it cannot be written; nothing was
            changed. Also where the format cannot hold a value, such as a tensor subclass in .safetensors.
    """
    path = Path(path)
    found = next((each for each in FORMATS if each.write is not None and each.names(path)), None)
    if found is None or found.write is None:
        *most, last = (suffix for each in FORMATS if each.write is not None for suffix in each.suffixes)
        raise CheckpointError(f"{path}: the name must end in {', '.join(most)} or {last}, which says the format")
    if path.exists() and not overwrite:
        raise CheckpointError(
            f"{path}: there already, not overwritten. Choose another name, or say overwrite=True (--force)"
        )
    with _whole_or_not_at_all(path, (OSError, RuntimeError, *found.failures)) as temporary:
        try:
            found.write(state, temporary)
        except CannotHold as error:
            raise CheckpointError(f"{path}: {error}") from error


@contextmanager
def _whole_or_not_at_all(path: Path, failures: tuple[type[Exception], ...]) -> Iterator[Path]:
    """Give a temporary file beside `path`, which takes its place when the block ends, and is gone if the block fails.

    Raises:
        CheckpointError: for one of `failures`, and where there can be no file; what was at `path` is as it was.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error
    os.close(handle)
    try:
        yield Path(name)
        # A file of mkstemp is for its owner alone; what the user asked for has the usual rights.
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except failures as error:
        raise CheckpointError(f"{path}: cannot be written: {reason_of(error)}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
