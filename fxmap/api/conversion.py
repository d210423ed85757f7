"""convert: write a checkpoint of the destination in shards, without either model in memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fxmap.api.file_options import FileOptions
from fxmap.api.graph_file import fill_graph_file, mapped_file
from fxmap.api.map_options import MapOptions
from fxmap.api.numbers import numbers_said
from fxmap.api.verdict import Verify
from fxmap.errors import ArgumentError
from fxmap.files.formats.safetensors import SAFETENSORS, metadata_of
from fxmap.files.reading import existing
from fxmap.mapping.applying import refuse_lacking_ranges, whole_ones
from fxmap.mapping.findings import Note, NoteKind
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.model.arguments import refuse_no_model, refuse_other_kind
from fxmap.model.faults import bounded
from fxmap.model.surroundings import undisturbed
from fxmap.streaming.convert import SHARD_SIZE, files_of, identity_of, work_of
from fxmap.streaming.distributed import write_distributed
from fxmap.streaming.folder import Progress, write_folder
from fxmap.streaming.output import folder_for


@bounded
@undisturbed
def convert(
    checkpoint: str | Path,
    output: str | Path,
    *,
    dst: nn.Module | str | Path,
    src: nn.Module | None = None,
    weights: str | None = None,
    strict: bool = True,
    on_mismatch: Literal["raise", "keep"] = "raise",
    example_inputs: Any = None,
    verify: Verify = True,
    shard_size: int = SHARD_SIZE,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    layout: Literal["safetensors", "dcp"] = "safetensors",
    progress: Progress | None = None,
) -> KeyMapping:
    """Write a checkpoint of `dst` with the weights of a checkpoint of `src`, tensor by tensor, into a folder of shards.

    The folder appears when it is whole. After an interruption the same call verifies the finished shards by their
    checksums, and goes on behind them.

    Args:
        checkpoint: a file, an index of shards, or a folder; or an .onnx or .pt2 file; as in `load`.
        output: the folder to write: .safetensors files, and their index if there are several. A symbolic link is followed.
        dst, src: the models, which may be on the meta device: nothing of their weights is read. Where `dst` is the path of
            an .onnx or .pt2 file, `output` is a file with its graph and the weights of the checkpoint.
        weights, strict, on_mismatch, example_inputs, verify: as in `load`. A proof of models on the meta device takes
            no memory for weights, and time; `verify=False` takes neither.
        shard_size: the most bytes of one file; a larger tensor has a file of its own.
        dtype: of floating-point tensors; by default that of the source.
        overwrite: replace an output that is there already: a folder that holds nothing but files that `convert` writes, and
            not the source.
        layout: "dcp" writes a folder of torch.distributed.checkpoint, from which any number of ranks load; it has no shards,
            and begins anew after an interruption.
        progress: called with the bytes done, the bytes in all, and the name of the shard, after every tensor.

    Returns:
        The mapping, with a note on keys of `dst` that nothing was made of, and that are not in the output.

    Raises:
        CheckpointError: the output is there already, has the name of a file, holds the source or files that are not of a
            checkpoint, or is written by another conversion; a file of the source is missing or corrupt; or the disk is full.
        ArgumentError: `dtype` is none of floating point; `layout` or `shard_size` is nothing that there is.
        LoadError: a value does not fit `dtype`; or as `load`.
        ProofError, DifferentNetworks: as `load`.

    Memory: the largest tensor, twice where it is computed or converted. Cost: the bytes are read once, written once, and
    summed up.
    """
    if layout not in ("safetensors", "dcp"):
        raise ArgumentError(f'layout is "safetensors" or "dcp", not {layout!r}')
    refuse_other_kind("shard_size", shard_size, int, "a number of bytes")
    if shard_size < 1:
        raise ArgumentError(f"shard_size is a number of bytes, not {shard_size}")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ArgumentError(f"dtype={dtype}: one of floating point is needed, as torch.float16 or torch.bfloat16")
    _refuse_kinds(checkpoint, output, src, dst)
    given = MapOptions(example_inputs)
    how = FileOptions(src, weights, strict=strict, on_mismatch=on_mismatch, verify=verify, given=given)
    if not isinstance(dst, nn.Module):
        if dtype is not None:
            raise ArgumentError(f"dtype={dtype}: the dtypes of {dst} are those of its graph")
        return fill_graph_file(checkpoint, output, how, dst=dst, overwrite=overwrite)
    source = existing(Path(checkpoint))
    place = folder_for(Path(output), files_of(source), overwrite=overwrite)
    mapping, state = mapped_file(source, dst, how)
    refuse_lacking_ranges(mapping, mapping.knowledge)
    own = dst.state_dict()
    work = work_of(
        mapping,
        state,
        shapes={key: tuple(value.shape) for key, value in own.items() if isinstance(value, Tensor)},
        metadata=_metadata(source),
        shard_size=shard_size,
        dtype=dtype,
        identity=identity_of(source),
    )
    report = progress or (lambda done, total, what: None)
    with numbers_said(state, mapping.sources()):
        if layout == "dcp":
            write_distributed(work, place, report, overwrite=overwrite)
            return mapping.with_notes(*_notes(mapping, own, 0, 0))
        taken = write_folder(work, place, report, overwrite=overwrite)
    return mapping.with_notes(*_notes(mapping, own, taken, len(work.shards)))


def _refuse_kinds(checkpoint: object, output: object, src: object, dst: object) -> None:
    """Refuse a class, a state dict or a path where something else is asked for."""
    if not isinstance(checkpoint, str | Path):
        raise ArgumentError(f"checkpoint is the path of a file or a folder, not {type(checkpoint).__name__}")
    if not isinstance(output, str | Path):
        raise ArgumentError(f"output is the path of a folder that is to be written, not {type(output).__name__}")
    if src is not None:
        refuse_no_model("src", src, "It is of the architecture that the file was saved from")
    if not isinstance(dst, str | Path):
        refuse_no_model("dst", dst, "Files and state dicts are given as checkpoint")


def _metadata(source: Path) -> dict[str, str]:
    """Return the metadata of a .safetensors file, or of the first of several."""
    beside = sorted(source.parent.glob("*.safetensors")) if source.name.endswith(".json") else [source]
    known = metadata_of(beside[0]) if beside and SAFETENSORS.names(beside[0]) else {}
    return {"format": "pt"} | known


def _notes(mapping: KeyMapping, own: Mapping[str, Any], taken: int, count: int) -> list[Note]:
    notes = []
    made = whole_ones(mapping)
    absent = [key for key in own if key not in made]
    if absent:
        text = f"{len(absent)} keys of the destination are not in the output, since nothing was made of them: {absent[0]}"
        notes.append(Note(text, NoteKind.CHECKPOINT))
    if taken:
        notes.append(Note(f"{taken} of {count} shards were finished by an earlier run", NoteKind.CHECKPOINT))
    return notes
