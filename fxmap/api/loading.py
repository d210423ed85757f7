"""transfer and load: fill a destination from a source model or a checkpoint, in place and in one call."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from fxmap.api.automap import mapped
from fxmap.api.file_options import FileOptions
from fxmap.api.filling import Calibration, Filling, fill
from fxmap.api.graph_source import refuse_beside, refuse_choices, refuse_graph_file, refuse_parts
from fxmap.api.guesses import refuse_two_in_one, warn_of_rest
from fxmap.api.map_options import MapOptions
from fxmap.api.numbers import numbers_said
from fxmap.api.observed import NOTE, filled, gives_ranges, int8_of, refuse_alone
from fxmap.api.part import part_of
from fxmap.api.source_file import SourceFile, refuse_uncomputed
from fxmap.api.stored_form import state_read
from fxmap.api.unrun import refuse_inputs
from fxmap.api.verdict import Verify, accept, asked, complete
from fxmap.errors import ArgumentError
from fxmap.files.checkpoint import Source, open_checkpoint
from fxmap.mapping.findings import checkpoint_notes
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.model.arguments import refuse_no_model
from fxmap.model.faults import bounded
from fxmap.model.inputs import Forward
from fxmap.model.lazy import refuse_uninitialised
from fxmap.model.surroundings import undisturbed
from fxmap.sources.layout import in_one_layout
from fxmap.sources.opened import opened, unpacked
from fxmap.trace import stage


@bounded
@undisturbed
def transfer(
    src: nn.Module,
    dst: nn.Module,
    *,
    into: str | None = None,
    calibration: Calibration = None,
    qconfig: Any = None,
    on_mismatch: Literal["raise", "keep"] = "raise",
    relu6: Literal["reference", "clamp"] = "reference",
    example_inputs: Any = None,
    dst_inputs: Any = None,
    src_forward: Forward | None = None,
    dst_forward: Forward | None = None,
    verify: Verify = True,
    absorb_eps: bool = False,
    streamed: bool | None = None,
) -> KeyMapping:
    """Load the source model's weights into the destination model, in place; on an error, nothing is written.

    Args:
        src: the source model, or what carries its graph, as in `auto_map`; it is not changed.
        dst: the destination, float or of any quantized form of torch.ao, eager or FX, or of PT2E.
        into: the submodule of the destination to fill, as in `backbone.body`; by default all of the destination.
        calibration: for a static int8 or observer-prepared destination, an iterable of inputs (a few dozen typical
            images); or "distilled", to synthesize images whose statistics match the running statistics of the source's
            batch norms; or "keep", to trust and keep the destination's own activation ranges. None is needed where the
            source is int8 as well, and has a range for every place where the destination has one, nor where it is prepared
            for QAT, or with observers that have seen data: their ranges are then those of the destination.
        qconfig: the observers to calibrate with; by default the destination's own, else torchvision's: min and max of
            activations (default_observer), weights quantized as they are in the destination. For a graph of FX mode it may
            be a QConfigMapping, for one of PT2E it makes an observer of activations.
        on_mismatch: as in `KeyMapping.load_into`.
        relu6: where the source has ReLU6 and an int8 destination ReLU (torchvision's MobileNetV2), "reference" gives the
            ranges of the usual recipe, and the report says what that costs; "clamp" ends these ranges at 6, so that the
            saturation of the integers is the ReLU6. They use all of 0..255, which not every kernel adds up exactly; the
            other ranges are those of `qconfig`, by default with a bit of headroom.
        example_inputs, dst_inputs, src_forward, dst_forward, absorb_eps, streamed: as in `auto_map`; distilled images have
            the size of these inputs.
        verify: run both models, and write nothing where that refutes the mapping (`Proof.refuted`). A mapping between models
            with a known difference, such as a replaced head or another eps, or one that could not be proven, is written with
            a ProofWarning. "required" writes nothing unless all is proven, "warn" writes a refuted mapping too, with a
            warning, and False runs nothing.

    Returns:
        The mapping; ranges that the batches gave are `calibrated`, those of an int8 source `taken`.

    Raises:
        ProofError: both models were run, their outputs differ, and no known difference of the models explains it.
        MissingCalibration: static int8 without `calibration`, and ranges that the source does not have.
        QuantizationError: batches or scheme are refused, the destination can't run as it was built, or images cannot be
            distilled, since the source has no batch norm.
        LoadError, DifferentNetworks: as in `KeyMapping.load_into`.
        ArgumentError: keys are left, and a model does not run on the inputs that were given.

    >>> src, dst = nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    >>> transfer(src, dst, into="0").renames
    {'0.weight': 'weight', '0.bias': 'bias'}
    """
    refuse_graph_file("dst", dst, "a file is written anew by fxmap.convert(checkpoint_file, output, dst=path, src=src)")
    given = MapOptions(example_inputs, dst_inputs, src_forward, dst_forward, absorb_eps=absorb_eps, streamed=streamed)
    carried = not isinstance(src, nn.Module)
    src, dst, inputs = unpacked(src, dst, example_inputs)
    refuse_no_model("src", src, "A file or a state dict is loaded by fxmap.load(dst, checkpoint_file)")
    refuse_no_model("dst", dst, "The order is fxmap.transfer(src, dst)")
    options = Filling(calibration, qconfig, on_mismatch, relu6, inputs)
    return _transferred(src, dst, into, options, verify, given, carried=carried)


def _transferred(
    src: nn.Module,
    dst: nn.Module,
    into: str | None,
    options: Filling,
    verify: Verify,
    given: MapOptions,
    strict: str = "",
    *,
    carried: bool,
) -> KeyMapping:
    """Map and fill.

    `given` has the inputs that the user gave, and `options` those to run on; `strict` is the name of a source of which no
    layer may be read in part, and `carried` says that the source came with its graph.
    """
    refuse_uninitialised(source=src, destination=dst)
    part = part_of(dst, into)
    int8 = int8_of(src) if gives_ranges(src, part.model, options.calibration) else None
    src = int8 or src
    mapping = mapped(src, part.model, replace(given, example_inputs=options.example_inputs, verify=asked(verify)))
    mapping = mapping if int8 is None else mapping.with_notes(NOTE)
    refuse_inputs(mapping, src, part.model, given, carried=carried)
    complete(mapping, options.on_mismatch)
    state = state_read(src)
    if strict:
        refuse_parts(mapping, state, strict)
    accept(mapping, verify)
    with numbers_said(state, mapping.sources()), stage("fill the destination"):
        mapping = fill(mapping, src, part.model, state, options)
    return part.outside(mapping).with_loaded()


@bounded
@undisturbed
def load(
    dst: nn.Module,
    checkpoint_file: Source | torch.export.ExportedProgram | torch.jit.ScriptModule,
    *,
    src: nn.Module | None = None,
    weights: str | None = None,
    into: str | None = None,
    lora_alpha: float | None = None,
    strict: bool = True,
    calibration: Calibration = None,
    qconfig: Any = None,
    on_mismatch: Literal["raise", "keep"] = "raise",
    relu6: Literal["reference", "clamp"] = "reference",
    example_inputs: Any = None,
    dst_inputs: Any = None,
    src_forward: Forward | None = None,
    dst_forward: Forward | None = None,
    verify: Verify = True,
    absorb_eps: bool = False,
    streamed: bool | None = None,
    assign: bool = False,
    allow_code: bool = False,
) -> KeyMapping:
    """Load a checkpoint file into the destination model, in place; on an error, nothing is written.

    Args:
        dst: the destination, as in `transfer`.
        checkpoint_file: what carries its graph (an .onnx or .pt2 file, a torch.export program, TorchScript), so that no
            `src` is needed for a proof; or a .safetensors file, a file of torch.save (read with weights_only=True), the
            index of a checkpoint in several files, a folder of Hugging Face's libraries, several of these, or a state dict.
        src: a model of the architecture that the checkpoint was saved from; its own weights do not matter. Without it,
            keys are matched by shapes, names and order, which proves nothing.
        weights: the name of the weights to load, where the file holds several sets, such as "ema", "encoder_q" or
            "teacher.backbone"; by default those with a usual name, if there is a choice.
        into: the submodule of the destination to fill, as in `detector.backbone`; by default all of the destination.
        lora_alpha: how much low-rank adapters (LoRA) in the file count, divided by their rank, where the destination has
            none and they are merged; by default what adapter_config.json beside the file says.
        strict: refuse a file with layers of which some tensors are read and others are not (a bias that `src` lacks, an
            adapter, a scale). False leaves these in the file, with a warning; `mapping.left_in_file` lists them either way.
        calibration, qconfig, on_mismatch, relu6, example_inputs, dst_inputs, src_forward, dst_forward, verify, absorb_eps,
            streamed: as in `transfer`.
        assign: give the destination the file's tensors, in the file's dtype, instead of writing into its own: for a model
            on the meta device, which then takes no other memory.
        allow_code: let torch's interpreter run the code that a TorchScript file holds.

    Raises:
        CheckpointError: the file cannot be read safely, or holds several sets of weights that fit.
        LoadError: as `transfer`; or the file lacks keys that `src` reads, or has unread tensors of its layers (`strict`).
        As `transfer`.

    Memory, with `verify=False`: the largest tensor beside both models, of which `src`, and with `assign` the destination,
    may be on the meta device.

    >>> import torch
    >>> file = {"student": nn.Linear(3, 2).state_dict(), "teacher": nn.Linear(3, 2).state_dict()}
    >>> dst = nn.Linear(3, 2)
    >>> load(dst, file, weights="teacher").renames
    {'weight': 'weight', 'bias': 'bias'}
    >>> torch.equal(dst.weight, file["teacher"]["weight"])
    True
    """
    refuse_graph_file("dst", dst, "a file is written anew by fxmap.convert(checkpoint_file, output, dst=path, src=src)")
    refuse_no_model("dst", dst, "The order is fxmap.load(dst, checkpoint_file)")
    if src is not None:
        refuse_graph_file("src", src, "a file that carries its graph is loaded by itself, fxmap.load(dst, path)")
        refuse_no_model("src", src, "It is of the architecture that the file was saved from; the file is checkpoint_file")
    if isinstance(checkpoint_file, type):
        raise ArgumentError(f"checkpoint_file is a path or a state dict, not the class {checkpoint_file.__name__}")
    refuse_uninitialised(source=src, destination=dst)
    refuse_beside(checkpoint_file, src)
    carried = opened(checkpoint_file, allow_code, example_inputs) if src is None else None
    model = None if carried is None else carried.model
    inputs = example_inputs
    if carried is not None and example_inputs is None:
        inputs = in_one_layout(carried.model, carried.inputs, part_of(dst, into).model, None)
    where = str(checkpoint_file) if isinstance(checkpoint_file, str | Path) else type(checkpoint_file).__name__
    if carried is not None:
        refuse_choices(where, weights=weights, lora_alpha=lora_alpha)
    if src is not None and gives_ranges(src, part_of(dst, into).model, calibration):
        model = filled(src, cast(Source, checkpoint_file), weights)
    given = MapOptions(example_inputs, dst_inputs, src_forward, dst_forward, absorb_eps=absorb_eps, streamed=streamed)
    if model is not None:
        filling = Filling(calibration, qconfig, on_mismatch, relu6, inputs, assign and carried is not None)
        named = where if strict and carried is not None else ""
        return _transferred(model, dst, into, filling, verify, given, named, carried=carried is not None)
    options = Filling(calibration, qconfig, on_mismatch, relu6, example_inputs, assign)
    part = part_of(dst, into)
    how = FileOptions(src, weights, lora_alpha, strict, on_mismatch, verify, given)
    mapping, file = map_file(cast(Source, checkpoint_file), part.model, how)
    with numbers_said(file.state, mapping.sources()), stage("fill the destination"):
        mapping = fill(mapping, file.src, part.model, file.state, options)
    return part.outside(mapping).with_loaded()


def map_file(checkpoint_file: Source, dst: nn.Module, how: FileOptions) -> tuple[KeyMapping, SourceFile]:
    """Map a checkpoint file to a destination, and refuse what must not be written.

    Returns:
        The mapping, and the file, of which no tensor was read that the mapping did not need.

    Raises:
        As `load`.
    """
    src, verify = how.src, asked(how.verify)
    refuse_uninitialised(source=src, destination=dst)
    own = (dst if src is None else src).state_dict()
    found = open_checkpoint(checkpoint_file, how.weights, own, how.lora_alpha, lazy=True)
    if how.strict:
        refuse_uncomputed(found)
    if src is None:
        refuse_alone(found, dst)
    file = SourceFile.of(found, src, run=bool(verify))
    if src is not None:
        refuse_two_in_one(file, dst)
    mapping = mapped(found if file.src is None else file.src, dst, replace(how.given, verify=verify))
    mapping = mapping if src is None else mapping.with_notes(*checkpoint_notes(found))
    mapping = file.read_by(mapping, how.on_mismatch)
    if how.strict:
        file.refuse_packed(mapping)
    if file.src is not None:
        refuse_inputs(mapping, file.src, dst, how.given)
    complete(mapping, how.on_mismatch)
    file.account(mapping, how.strict)
    if src is None:
        refuse_two_in_one(file, dst)
        warn_of_rest(file, mapping)
    accept(mapping, how.verify, guessed=src is None)
    return mapping, file
