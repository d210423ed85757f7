"""Filling: write the mapped tensors into a destination, and calibrate the activation ranges that it needs from data."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fxmap.errors import QuantizationError
from fxmap.expressions.base import Expression, contains
from fxmap.expressions.quantized import Requantized
from fxmap.expressions.values import evaluated
from fxmap.files.lazy import materialise
from fxmap.forms.distill import distilled_batches
from fxmap.forms.eager import fill_twin
from fxmap.forms.fill import FillRequest, arguments
from fxmap.forms.form import Twin
from fxmap.forms.saturation import FULL_RANGE
from fxmap.forms.sites import KeptReason
from fxmap.forms.twin import float_twin
from fxmap.mapping.findings import Note, NoteKind
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status
from fxmap.model.replica import replicate
from fxmap.model.wrappers import match_prefix, unwrap
from fxmap.run.noise import loss

Calibration = Iterable[Any] | Literal["keep", "distilled"] | None


@dataclass(frozen=True)
class Filling:
    """How a destination is filled: the options of `transfer` and `load` that concern writing.

    Raises:
        ValueError: an option has an invalid value.
    """

    calibration: Calibration = None
    qconfig: Any = None
    on_mismatch: Literal["raise", "keep"] = "raise"
    relu6: Literal["reference", "clamp"] = "reference"
    example_inputs: Any = None
    assign: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.calibration, str) and self.calibration not in ("keep", "distilled"):
            raise ValueError(f'calibration is an iterable of inputs, "distilled" or "keep", not {self.calibration!r}')
        if self.relu6 not in ("reference", "clamp"):
            raise ValueError(f'relu6 is "reference" or "clamp", not {self.relu6!r}')
        if self.assign and self.calibration is not None:
            raise ValueError("assign=True gives the destination new float tensors; calibration needs one that has memory")
        if self.relu6 == "clamp" and self.calibration in (None, "keep"):
            raise ValueError('relu6="clamp" bounds ranges while they are calibrated; give calibration=batches with it')


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
    before = made.write_literals(inner)
    try:
        mapping.write(dst, full)
    except BaseException:
        before.write_literals(inner)
        raise
    if batches is None:
        return mapping
    observed = {
        key: Status.CALIBRATED
        for key, status in mapping.knowledge.statuses.items()
        if status is Status.KEPT
        and key.removeprefix(prefix) not in kept
        and mapping.knowledge.reasons.get(key) in (KeptReason.RANGE, KeptReason.OBSERVER)
    }
    notes = list(mapping.knowledge.notes_but(NoteKind.RANGES_NEEDED))
    if src is not None and mapping.knowledge.ranges:
        notes.append(Note(f"{_FIRST}: {_against(src, state, inner, batches.first)}", NoteKind.CALIBRATED))
    if mapping.knowledge.saturating:
        text = (
            f"{len(bounded)} relus end at the bound of their counterpart, by the saturation of their integers; {FULL_RANGE}"
            if bounded
            else _cost_of_relu(mapping, src, state, _filled_twin(inner, own, state), batches.first)
        )
        notes.append(Note(text, NoteKind.SATURATION))
    return mapping.with_knowledge(statuses=mapping.knowledge.statuses | observed, notes=tuple(notes))


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


_FIRST = "against the float source on the first calibration batch"


def _cost_of_relu(mapping: KeyMapping, src: nn.Module | None, state: Mapping[str, Any], twin: nn.Module, batch: Any) -> str:
    """Describe the error caused by destination relus that do not saturate: its float twin is compared with the source."""
    bounds = mapping.knowledge.saturating
    bound = next(iter(bounds.values()))[1]
    cost = "" if src is None else f"; without any rounding, {_against(src, state, twin, batch)}"
    return (
        f"the source clamps at {bound:g} where the destination has {len(bounds)} relus that do not saturate{cost}. "
        f'relu6="clamp" lets their int8 ranges end at {bound:g}, which computes the source\'s function'
    )


def _filled_twin(dst: nn.Module, expressions: Mapping[str, Expression], state: Mapping[str, Any]) -> nn.Module:
    """Return the destination's float twin, in eval mode, with the mapped weights."""
    twin = float_twin(dst)
    fill_twin(twin, expressions, state)
    return twin.module.eval()


def _against(src: nn.Module, state: Mapping[str, Any], dst: nn.Module, batch: Any) -> str:
    """Describe the signal-to-noise ratio of a filled destination against the float source on one batch."""
    reference = replicate(unwrap(src)[0]).eval()
    plain = {key: value for key, value in _inner(src, state).items() if isinstance(value, Tensor)}
    result = replicate(dst).eval()
    args, kwargs = arguments(reference, batch)
    try:
        ratio = loss(lambda: functional_call(reference, plain, args, kwargs), lambda: result(*args, **kwargs))
    except QuantizationError as error:
        return f"not known, {error}"
    return f"{ratio:.1f} dB signal to noise"


def _inner(src: nn.Module, state: Mapping[str, Any]) -> Mapping[str, Any]:
    prefix = unwrap(src)[1]
    return {key.removeprefix(prefix): value for key, value in state.items()}


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
