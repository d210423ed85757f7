"""Write a state dict to a file, whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxmap.errors import CheckpointError
from fxmap.files.atomic import whole_file
from fxmap.files.format import CannotHold
from fxmap.files.formats import FORMATS


def save(state: Mapping[str, Any], path: str | Path, *, overwrite: bool = False) -> None:
    """Write a state dict to a .safetensors file, or as torch.save does (.pt, .pth, .bin); atomically.

    Dtypes are kept, and so are quantized tensors: .safetensors holds their integers, scales, zero points and axis, and what
    `open_checkpoint` rebuilds of them is equal bit for bit. `_metadata` is kept. Keys that share a tensor stay tied in a
    file of torch.save; in .safetensors, which has no such thing, each has its own copy. The file appears under its name when
    it is complete and on the disk. A file that is overwritten keeps its permissions, a symbolic link is followed; of two
    writers without `overwrite` one gets the name, and the other an error.

    Raises:
        CheckpointError: the file is there already, its name ends in something else, or it cannot be written; nothing was
            changed. Also where the format cannot hold a value, such as a tensor subclass in .safetensors.
    """
    path = Path(path)
    found = next((each for each in FORMATS if each.write is not None and each.names(path)), None)
    if found is None or found.write is None:
        *most, last = (suffix for each in FORMATS if each.write is not None for suffix in each.suffixes)
        raise CheckpointError(f"{path}: the name must end in {', '.join(most)} or {last}, which says the format")
    with whole_file(path, (OSError, RuntimeError, *found.failures), overwrite=overwrite) as temporary:
        try:
            found.write(state, temporary)
        except CannotHold as error:
            raise CheckpointError(f"{path}: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text to a file, which is replaced if there is one; whole or not at all.

    Raises:
        CheckpointError: it cannot be written; nothing was changed.
    """
    with whole_file(path, (OSError,), overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")
