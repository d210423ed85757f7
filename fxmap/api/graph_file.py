"""Files that carry their graph: written anew with other weights, and read where tensors alone are asked for."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from fxmap.api.automap import mapped
from fxmap.api.file_options import FileOptions
from fxmap.api.graph_source import refuse_beside, refuse_choices, refuse_parts
from fxmap.api.loading import load, map_file
from fxmap.api.stored_form import state_read
from fxmap.api.verdict import accept, asked, complete
from fxmap.errors import CheckpointError
from fxmap.files.checkpoint import Source, open_checkpoint
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.sources.layout import in_one_layout
from fxmap.sources.onnx.model import OnnxModel
from fxmap.sources.onnx.ops.quantized import NOT_WRITTEN
from fxmap.sources.opened import carries_graph, opened


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
    if not carries_graph(dst):
        raise CheckpointError(f"{dst}: no file that carries its graph and can be written: .onnx, .pt2")
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


def mapped_file(source: Path, dst: nn.Module, how: FileOptions) -> tuple[KeyMapping, Mapping[str, Any]]:
    """Map a file to a destination, and refuse what must not be written; of one that carries its graph, by that graph.

    Returns:
        The mapping, and the tensors that it reads.

    Raises:
        As `load`.
    """
    refuse_beside(source, how.src)
    carried = opened(source) if carries_graph(source) else None
    if carried is None:
        mapping, file = map_file(source, dst, how)
        return mapping, file.state
    refuse_choices(str(source), weights=how.weights)
    given = replace(how.given, verify=asked(how.verify))
    if given.example_inputs is None:
        given = replace(given, example_inputs=in_one_layout(carried.model, carried.inputs, dst, None))
    mapping = mapped(carried.model, dst, given)
    complete(mapping, how.on_mismatch)
    state = state_read(carried.model)
    if how.strict:
        refuse_parts(mapping, state, str(source))
    accept(mapping, how.verify)
    return mapping, state


def tensors_in(source: str | Path, weights: str | None = None, *, as_source: bool = False) -> Mapping[str, Any]:
    """Return the tensors of a checkpoint, or of a file that carries its graph, under the names that a mapping has for them.

    `as_source` says that they are those of a mapping's source, which an exporter may have computed beforehand.

    Raises:
        CheckpointError: the file cannot be read.
        LoadError: it carries its graph, and one of several sets of weights is asked for.
    """
    if not carries_graph(source):
        return open_checkpoint(source, weights=weights, lazy=True).state
    refuse_choices(str(source), weights=weights)
    carried = opened(source)
    assert carried is not None
    if as_source and isinstance(carried.model, OnnxModel):
        carried.model.read_as_source()
    return carried.model.state_dict()
