"""A checkpoint in several files, and its index {"weight_map": {key: file}}, as Hugging Face's libraries write it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from fxmap.errors import CheckpointError, shorten
from fxmap.files.format import Format, read_as, reason_of

_SUFFIX = ".index.json"


def index_of_shards(formats: Sequence[Format]) -> Format:
    """Return the format of an index whose shards are files of the given formats."""
    return Format(
        name="index of shards",
        suffixes=(_SUFFIX,),
        holds="tensors, in files that lie beside it",
        read=lambda path: _read(path, formats, lazy=False),
        lazy=lambda path: _read(path, formats, lazy=True),
    )


def _read(index: Path, formats: Sequence[Format], *, lazy: bool) -> dict[str, Tensor]:
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {str(key): _shard_name(index, name) for key, name in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise CheckpointError(
            f'{index}: not an index of shards {{"weight_map": {{key: file}}}}: {reason_of(error)}'
        ) from error
    absent = [name for name in dict.fromkeys(shards.values()) if not (index.parent / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{index}: {len(absent)} of {len(set(shards.values()))} shards are not beside it: {shorten(absent)}. "
            "Fetch them into the same folder"
        )
    state: dict[str, Tensor] = {}
    for name in dict.fromkeys(shards.values()):
        held = read_as(index.parent / name, formats, lazy=lazy)
        wanted = [key for key, shard in shards.items() if shard == name]
        lost = [key for key in wanted if not isinstance(held, Mapping) or not isinstance(held.get(key), Tensor)]
        if lost:
            raise CheckpointError(f"{index.parent / name}: lacks {shorten(lost)}, which {index.name} says it holds")
        state.update({key: held[key] for key in wanted})
    return state


def _shard_name(index: Path, name: object) -> str:
    """Return the name of a shard, if it is that of a file beside the index: an index must not lead anywhere else."""
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name or name.endswith(_SUFFIX):
        raise CheckpointError(f"{index}: the shard {name!r} is not the name of a file beside it")
    return name
