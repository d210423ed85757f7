"""Files that carry their graph, written anew with other weights."""

import os
from pathlib import Path

from fxmap.api.file_options import FileOptions
from fxmap.api.loading import load
from fxmap.errors import CheckpointError
from fxmap.files.checkpoint import Source
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.sources.layout import in_one_layout
from fxmap.sources.onnx.quantized import NOT_WRITTEN
from fxmap.sources.opened import opened


def fill_graph_file(
    checkpoint: Source,
    output: str | Path,
    how: FileOptions = FileOptions(),  # noqa: B008 - it is frozen
    *,
    dst: str | Path,
    overwrite: bool = False,
) -> KeyMapping:
    """Write an .onnx or .pt2 file anew, with the weights of a checkpoint in it and the graph that it had.

    Args:
        checkpoint: as in `load`.
        output: the file to write, of the same kind as `dst`. It appears under its name when it is whole; numbers that lay
            in a file beside an .onnx file are written to `OUTPUT.data`.
        how: the options of `load`.
        dst: the file whose graph it has, which is not changed.
        overwrite: replace an output that is there already.

    Raises:
        CheckpointError: `dst` cannot be read, `output` has another suffix, is there already, or cannot be written.
        LoadError, ProofError, DifferentNetworks: as `load`; nothing is written.
    """
    if Path(output).suffix != Path(dst).suffix:
        raise CheckpointError(f"{output}: the name must end in {Path(dst).suffix}, as that of {dst}, whose graph it gets")
    if not overwrite and os.path.exists(output):
        raise CheckpointError(f"{output}: is there already; pass overwrite=True to replace it")
    inputs = how.given.example_inputs
    carried = opened(dst, example_inputs=inputs)
    if carried is not None and carried.save is None and Path(dst).suffix == ".onnx":
        raise CheckpointError(f"{dst}: {NOT_WRITTEN}")
    if carried is None or carried.save is None:
        raise CheckpointError(f"{dst}: no file that carries its graph and can be written: .onnx, .pt2")
    inputs = in_one_layout(carried.model, carried.inputs, how.src, None) if inputs is None else inputs
    mapping = load(
        carried.model,
        checkpoint,
        src=how.src,
        weights=how.weights,
        lora_alpha=how.lora_alpha,
        strict=how.strict,
        on_mismatch=how.on_mismatch,
        verify=how.verify,
        example_inputs=inputs,
        dst_inputs=how.given.dst_inputs,
        src_forward=how.given.src_forward,
        dst_forward=how.given.dst_forward,
        absorb_eps=how.given.absorb_eps,
        streamed=how.given.streamed,
    )
    carried.save(Path(output), overwrite)
    return mapping
