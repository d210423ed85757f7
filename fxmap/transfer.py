"""transfer and load: from a source to a filled destination, in one call and in place."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from fxmap import checkpoint
from fxmap.automap import auto_map
from fxmap.capture.replica import replicate
from fxmap.errors import QuantizationError, shorten
from fxmap.expressions import Expression
from fxmap.mapping import KeyMapping
from fxmap.proof import Status
from fxmap.quantization.calibrate import arguments, calibrated_state
from fxmap.quantization.fx import calibrated_graph_state
from fxmap.quantization.graph import norm_weights
from fxmap.quantization.noise import sqnr
from fxmap.quantization.pt2e import Refilled, refill, rewrite_literals
from fxmap.quantization.twin import Stage, float_twin
from fxmap.side import unwrap
from fxmap.values import tensors_of
from fxmap.wrappers import match_prefix

Calibration = Iterable[Any] | Literal["keep"] | None


def transfer(
    src: nn.Module,
    dst: nn.Module,
    *,
    calibration: Calibration = None,
    qconfig: Any = None,
    on_mismatch: Literal["raise", "keep"] = "raise",
    example_inputs: Any = None,
    verify: bool | Literal["required"] = True,
    absorb_eps: bool = False,
) -> KeyMapping:
    """Load the source model's weights into the destination model, in place; all or nothing.

    Args:
        src: the source model; it is not changed.
        dst: the destination, float or of any quantized form of torch.ao, eager or FX, or of PT2E.
        calibration: for a static int8 or observer-prepared destination, an iterable of inputs (a few dozen typical
            images), or "keep" to keep the destination's own activation ranges at your word.
        qconfig: the observers to calibrate with; by default the destination's own, else torchvision's: min and max of
            activations (default_observer), weights quantized as they are in the destination. For a graph of FX mode it may
            be a QConfigMapping, for one of PT2E it makes an observer of activations.
        on_mismatch: as in `KeyMapping.load_into`.
        example_inputs, verify, absorb_eps: as in `auto_map`.

    Returns:
        The mapping; ranges that the batches gave are `calibrated`.

    Raises:
        MissingCalibration: static int8 without `calibration`.
        QuantizationError: batches or scheme are refused, or the destination can't run as it was built.
        LoadError, DifferentNetworks: as in `KeyMapping.load_into`.
    """
    mapping = auto_map(src, dst, example_inputs=example_inputs, verify=verify, absorb_eps=absorb_eps)
    return fill(mapping, src, dst, src.state_dict(), calibration, qconfig, on_mismatch)


def load(
    dst: nn.Module,
    checkpoint_file: str | Path | Mapping[str, Any],
    *,
    src: nn.Module | None = None,
    weights: str | None = None,
    calibration: Calibration = None,
    qconfig: Any = None,
    on_mismatch: Literal["raise", "keep"] = "raise",
    example_inputs: Any = None,
    verify: bool | Literal["required"] = True,
) -> KeyMapping:
    """Load a checkpoint file into the destination model; all or nothing.

    Args:
        dst: the destination, as in `transfer`.
        checkpoint_file: a .safetensors file, a file of torch.save (read with weights_only=True), the index of a checkpoint
            in several files, or a state dict.
        src: a model of the architecture that the checkpoint was saved from; its own weights do not matter. Without it,
            keys are matched by shapes, names and order, which proves nothing.
        weights: which weights of the file, where it holds several, such as "ema"; by default the raw ones.
        calibration, qconfig, on_mismatch, example_inputs, verify: as in `transfer`.

    Raises:
        CheckpointError: the file cannot be read safely.
        As `transfer`.
    """
    found = checkpoint.open_checkpoint(checkpoint_file, weights)
    state = found.state
    mapping = auto_map(state if src is None else src, dst, example_inputs=example_inputs, verify=verify)
    mapping = mapping.with_knowledge(notes=(*mapping.knowledge.notes, *found.notes))
    return fill(mapping, src, dst, state, calibration, qconfig, on_mismatch)


def fill(
    mapping: KeyMapping,
    src: nn.Module | None,
    dst: nn.Module,
    state: Mapping[str, Any],
    calibration: Calibration,
    qconfig: Any,
    on_mismatch: Literal["raise", "keep"],
) -> KeyMapping:
    """Write a destination by a mapping that was made for it, calibrating it where it needs ranges."""
    if isinstance(calibration, str) and calibration != "keep":
        raise ValueError(f'calibration is an iterable of inputs or "keep", not {calibration!r}')
    if mapping.knowledge.blocked:
        raise QuantizationError(mapping.knowledge.blocked)
    inner, prefix = unwrap(dst)
    stage = float_twin(inner).stage
    if calibration is None or (calibration == "keep" and not stage.has_ranges):
        mapping.load_into(dst, state, on_mismatch)
        return _with_zeros_named(mapping, inner, prefix) if stage.is_qat else mapping
    if on_mismatch == "raise":
        mapping.require_complete()
    if calibration == "keep" and stage is not Stage.PT2E_CONVERTED:
        mapping.write(dst, mapping.evaluate(state, like=dst.state_dict()))
        return mapping
    if not stage.takes_calibration:
        raise QuantizationError(
            f"calibration was given, but the destination has no activation ranges: it is {stage.value}. "
            + "".join(f"{note}. " for note in mapping.knowledge.notes)
            + "Leave calibration out to load the float weights, or build the stage that has ranges: converted to int8, or "
            f"prepared with observers{', by prepare instead of prepare_qat' if stage.is_qat else ''}."
        )
    return _calibrate(mapping, src, dst, inner, prefix, state, calibration, qconfig)


def _with_zeros_named(mapping: KeyMapping, inner: nn.Module, prefix: str) -> KeyMapping:
    zeros = [prefix + key for key, weight in norm_weights(inner).items() if not weight.is_meta and not bool(weight.all())]
    if not zeros:
        return mapping
    note = (
        f"{shorten(zeros)} has zeros: preparing for QAT divides by the weight of a batch norm, so that forward gives NaN; "
        "prune these channels, or give the weight a small value"
    )
    return mapping.with_knowledge(notes=(*mapping.knowledge.notes, note))


def _calibrate(
    mapping: KeyMapping,
    src: nn.Module | None,
    dst: nn.Module,
    inner: nn.Module,
    prefix: str,
    state: Mapping[str, Any],
    calibration: Calibration,
    qconfig: Any,
) -> KeyMapping:
    batches = None if calibration is None or isinstance(calibration, str) else _First(calibration)
    state, _ = match_prefix(state, mapping.sources())
    own = {key.removeprefix(prefix): expression for key, expression in mapping.items()}
    lost = {key.removeprefix(prefix) for key in (*mapping.missing, *mapping.mismatched)}
    kept = lost | _ranges_of(lost & {key.removeprefix(prefix) for key in mapping.knowledge.unread}, mapping, prefix)
    made = _made(inner, own, state, batches, qconfig, frozenset(kept))
    full = OrderedDict((prefix + key, value) for key, value in made.state.items())
    before = made.write(inner)
    try:
        mapping.write(dst, full)
    except BaseException:
        rewrite_literals(inner, before)
        raise
    if batches is None:
        return mapping
    observed = {
        key: Status.CALIBRATED
        for key, status in mapping.knowledge.statuses.items()
        if status is Status.KEPT
        and key.removeprefix(prefix) not in kept
        and _is_range(mapping.knowledge.reasons.get(key, ""))
    }
    notes = [note for note in mapping.knowledge.notes if "activation ranges cannot be made" not in note]
    if src is not None and mapping.knowledge.ranges:
        notes.append(_loss(src, state, inner, batches.first))
    return mapping.with_knowledge(statuses=mapping.knowledge.statuses | observed, notes=tuple(notes))


def _made(
    inner: nn.Module,
    expressions: Mapping[str, Expression],
    state: Mapping[str, Any],
    batches: "_First | None",
    qconfig: Any,
    kept: frozenset[str],
) -> Refilled:
    """Make the destination's state, by the way that its form was made."""
    if isinstance(inner, fx.GraphModule) and float_twin(inner).stage is Stage.PT2E_CONVERTED:
        return refill(inner, expressions, state, batches, qconfig, kept)
    assert batches is not None
    if isinstance(inner, fx.GraphModule):
        return Refilled(calibrated_graph_state(inner, expressions, state, batches, qconfig, kept), {})
    return Refilled(calibrated_state(inner, expressions, state, batches, qconfig, kept), {})


def _is_range(reason: str) -> bool:
    return reason in ("activation range", "observer")


def _ranges_of(weights: set[str], mapping: KeyMapping, prefix: str) -> set[str]:
    """Return the ranges of the modules whose weights have no source and which no batch reaches."""
    owners = {key.removesuffix("._packed_params._packed_params").removesuffix(".weight") for key in weights}
    ranges = (key.removeprefix(prefix) for key in mapping.knowledge.ranges)
    return {key for key in ranges if key.rpartition(".")[0] in owners}


def _loss(src: nn.Module, state: Mapping[str, Any], dst: nn.Module, batch: Any) -> str:
    """Say how far the filled destination is from the float source on one batch."""
    reference = replicate(unwrap(src)[0]).eval()
    plain = {key: value for key, value in _inner(src, state).items() if isinstance(value, Tensor)}
    result = replicate(dst).eval()
    args, kwargs = arguments(reference, batch)
    try:
        with torch.no_grad():
            expected = tensors_of(functional_call(reference, plain, args, kwargs))
            actual = tensors_of(result(*args, **kwargs))
    except (RuntimeError, TypeError, ValueError) as error:
        return f"the loss by quantization is not known: the models could not be run on the first batch: {error}"
    if not expected or not actual or expected[0].shape != actual[0].shape:
        return "the loss by quantization is not known: the outputs have different shapes"
    return f"against the float source on the first calibration batch: {sqnr(expected[0], actual[0]):.1f} dB signal to noise"


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
