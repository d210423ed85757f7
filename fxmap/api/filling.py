"""Filling: write the mapped tensors into a destination, and calibrate the activation ranges that it needs from data."""

import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fxmap.api.loss_notes import FilledCopy, noted
from fxmap.errors import ArgumentError, ProofWarning, QuantizationError, shorten
from fxmap.expressions.base import contains
from fxmap.expressions.quantized import Requantized
from fxmap.expressions.values import evaluated
from fxmap.files.lazy import materialise
from fxmap.forms.distill import distilled_batches
from fxmap.forms.fill import FillRequest
from fxmap.forms.form import Twin
from fxmap.forms.sites import KeptReason
from fxmap.forms.twin import float_twin
from fxmap.mapping.findings import Note, NoteKind
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status
from fxmap.mapping.saved import Saved
from fxmap.mapping.writing import put_back
from fxmap.model.wrappers import match_prefix, unwrap

Calibration = Iterable[Any] | Literal["keep", "distilled"] | None


@dataclass(frozen=True)
class Filling:
    """How a destination is filled: the options of `transfer` and `load` that concern writing.

    Raises:
        ValueError: an option has an invalid value.
        TypeError: calibration is a tensor, and no iterable of batches.
    """

    calibration: Calibration = None
    qconfig: Any = None
    on_mismatch: Literal["raise", "keep"] = "raise"
    relu6: Literal["reference", "clamp"] = "reference"
    example_inputs: Any = None
    assign: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.calibration, str) and self.calibration not in ("keep", "distilled"):
            raise ArgumentError(f'calibration is an iterable of inputs, "distilled" or "keep", not {self.calibration!r}')
        if isinstance(self.calibration, Tensor):
            shape = list(self.calibration.shape)
            raise ArgumentError(
                f"calibration is an iterable of batches, and this is one tensor of shape {shape}, which would be taken "
                "apart along its first axis: pass calibration=[tensor] if it is a batch, or calibration=tensor.split(8)"
            )
        if self.relu6 not in ("reference", "clamp"):
            raise ArgumentError(f'relu6 is "reference" or "clamp", not {self.relu6!r}')
        if self.assign and self.calibration is not None:
            raise ArgumentError("assign=True gives the destination new float tensors; calibration needs one that has memory")
        if self.relu6 == "clamp" and self.calibration in (None, "keep"):
            raise ArgumentError('relu6="clamp" bounds ranges while they are calibrated; give calibration=batches with it')


def fill(
    mapping: KeyMapping, src: nn.Module | None, dst: nn.Module, state: Mapping[str, Any], options: Filling
) -> KeyMapping:
    """Write the tensors of its mapping into a destination, and calibrate it where it needs activation ranges."""
    calibration = options.calibration
    if mapping.knowledge.blocked:
        raise QuantizationError(mapping.knowledge.blocked)
    twin = float_twin(unwrap(dst)[0])
    stage = twin.stage
    if calibration is not None:
        mapping = mapping.without_ranges()
    if (calibration is None and not mapping.knowledge.literals) or (calibration == "keep" and not stage.has_ranges):
        # `accept` has judged it
        mapping.load_into(dst, state, options.on_mismatch, verify=False, assign=options.assign)
        if options.assign:
            _warn_of_unwritten(dst)
        return mapping
    state = {key: materialise(value) for key, value in state.items()}
    if options.on_mismatch == "raise":
        mapping.require_complete()
    if calibration == "keep" and not stage.ranges_in_graph:
        mapping.write(dst, mapping.evaluate(state, like=dst.state_dict()))
        return mapping
    if not stage.takes_calibration:
        raise QuantizationError(
            f"calibration was given, but the destination has no activation ranges: it is {stage}. "
            + "".join(f"{note}. " for note in mapping.knowledge.notes)
            + "Leave calibration out to load the float weights, or build the stage that has ranges: converted to int8, or "
            f"prepared with observers{', by prepare instead of prepare_qat' if stage.is_qat else ''}."
        )
    if options.relu6 == "clamp" and not stage.runs_int8:
        raise QuantizationError(
            f'relu6="clamp" sets the ranges of a static int8 destination, and this one is {stage}: its ranges are '
            "made when it is converted. Convert it first"
        )
    if calibration == "distilled":
        images, note = distilled_batches(src, state, options.example_inputs)
        filled = _calibrate(mapping, src, dst, twin, state, replace(options, calibration=images))
        return filled.with_notes(Note(note, NoteKind.DISTILLED))
    return _calibrate(mapping, src, dst, twin, state, options)


def _calibrate(
    mapping: KeyMapping,
    src: nn.Module | None,
    dst: nn.Module,
    twin: Twin,
    state: Mapping[str, Any],
    options: Filling,
) -> KeyMapping:
    inner, prefix = unwrap(dst)
    calibration = options.calibration
    batches = None if calibration is None or isinstance(calibration, str) else _First(calibration)
    state, _ = match_prefix(state, mapping.sources())
    own = {key.removeprefix(prefix): expression for key, expression in mapping.items()}
    lost = {key.removeprefix(prefix) for key in (*mapping.missing, *mapping.mismatched)}
    kept = lost | _ranges_of(lost & {key.removeprefix(prefix) for key in mapping.knowledge.unread}, mapping, prefix)
    bounded = mapping.knowledge.saturating if options.relu6 == "clamp" else {}
    assert twin.form.fill is not None
    literals = mapping.knowledge.literals
    request = FillRequest(inner, own, state, batches, options.qconfig, frozenset(kept), bounded, literals)
    made = twin.form.fill(twin, request)
    values = made.state
    if options.qconfig is None:
        # Integers that the source has in the destination's scheme are not made anew.
        values |= {
            key: evaluated(key, part, state) for key, part in own.items() if contains(part, Requantized) and key not in kept
        }
    full = OrderedDict((prefix + key, value) for key, value in values.items())
    _refuse_unusable_scales(full, mapping)
    # All that may fail comes before the first write, the notes on what the filled model computes as well.
    filled = mapping
    if batches is not None:
        copy = FilledCopy(inner, own, replace(made, state=values))
        filled = noted(_calibrated(mapping, kept, prefix), src, state, copy, batches.first, bounded)
    saved = Saved.of(inner)
    try:
        made.write_literals(inner)
        mapping.write(dst, full)
    except BaseException as error:
        put_back(saved, dst, error)
    return filled


def _warn_of_unwritten(dst: nn.Module) -> None:
    """Warn of buffers on the meta device that no state dict has, and that thus got no numbers."""
    held = dst.state_dict(keep_vars=True).keys()
    left = [name for name, value in dst.named_buffers() if value.is_meta and name not in held]
    if left:
        warnings.warn(
            f"{len(left)} buffers of the destination are on the meta device and in no state dict, so that they have no "
            f"numbers: {shorten(left)}. Build the model in fxmap.without_weights(), where buffers have theirs",
            ProofWarning,
            stacklevel=4,
        )


def _calibrated(mapping: KeyMapping, kept: set[str], prefix: str) -> KeyMapping:
    """Return a mapping whose statuses say which ranges the batches gave."""
    observed = {
        key: Status.CALIBRATED
        for key, status in mapping.knowledge.statuses.items()
        if status is Status.KEPT
        and key.removeprefix(prefix) not in kept
        and mapping.knowledge.reasons.get(key) in (KeptReason.RANGE, KeptReason.OBSERVER)
    }
    return mapping.with_knowledge(statuses=mapping.knowledge.statuses | observed)


def _refuse_unusable_scales(full: Mapping[str, Any], mapping: KeyMapping) -> None:
    """Refuse ranges that no kernel can use, as of activations that overflow on finite inputs.

    Raises:
        QuantizationError: a scale is not finite, or not above 0.
    """
    for key in mapping.knowledge.ranges:
        value = full.get(key)
        if key.endswith("scale") and isinstance(value, Tensor) and not bool((torch.isfinite(value) & (value > 0)).all()):
            raise QuantizationError(
                f"{key}: the scale from the calibration batches is {value.flatten().tolist()[:4]}: finite and above 0 is "
                "needed. Nothing was written; look for inputs on which activations overflow"
            )


def _ranges_of(weights: set[str], mapping: KeyMapping, prefix: str) -> set[str]:
    """Return the range keys of the modules whose weights have no source and that no batch reaches."""
    owners = {key.removesuffix("._packed_params._packed_params").removesuffix(".weight") for key in weights}
    ranges = (key.removeprefix(prefix) for key in mapping.knowledge.ranges)
    return {key for key in ranges if key.rpartition(".")[0] in owners}


class _First:
    """Iterates over batches once, and remembers the first."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches
        self.first: Any = None

    def __iter__(self) -> Any:
        for index, batch in enumerate(self.batches):
            if index == 0:
                self.first = batch
            yield batch
