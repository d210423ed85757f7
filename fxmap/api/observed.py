"""An int8 destination of a source that has observers: it gets the ranges that the source was trained with."""

from typing import Any

from torch import nn

from fxmap.errors import LoadError, shorten
from fxmap.files.checkpoint import Checkpoint, Source, open_checkpoint
from fxmap.files.lazy import materialise
from fxmap.forms.observed import converted, is_observed, needs_ranges, unseen
from fxmap.mapping.findings import Note, NoteKind
from fxmap.model.replica import replicate
from fxmap.model.wrappers import spell, unwrap

# How torch.ao calls the modules that have ranges of activations and of weights.
_OBSERVERS = ("activation_post_process", "weight_fake_quant")

NOTE = Note(
    "the source has observers, and was converted to int8 first: integers and ranges of activations are those of its own "
    "conversion, and source keys are those of the converted model",
    NoteKind.RANGES_TAKEN,
)


def gives_ranges(src: nn.Module | None, dst: nn.Module, calibration: Any) -> bool:
    """Whether a source is prepared for quantization, and a destination static int8 and not to be calibrated."""
    return src is not None and calibration is None and is_observed(unwrap(src)[0]) and needs_ranges(unwrap(dst)[0])


def int8_of(src: nn.Module) -> nn.Module | None:
    """Return the int8 model of a prepared source; None where some of its observers have seen nothing."""
    inner = unwrap(src)[0]
    return None if unseen(inner) else converted(inner)


def filled(src: nn.Module, file: Source, weights: str | None) -> nn.Module:
    """Return a copy of a prepared source with the weights and the observers of its checkpoint.

    Raises:
        CheckpointError: the file cannot be read.
        LoadError: the file does not have the keys of the source.
    """
    own = src.state_dict()
    found = open_checkpoint(file, weights, own, lazy=True)
    names = spell(found.state, own).names
    state = {names[key]: materialise(value) for key, value in found.state.items()}
    odd = [*(key for key in own if key not in state), *(key for key in state if key not in own)]
    if odd:
        raise LoadError(
            f"{found.where}: {shorten(odd)}: not a key of both the file and src ({type(src).__name__}), which is prepared "
            "for quantization: src is not the model of this file. Nothing was written"
        )
    copy = replicate(src, own=True)
    try:
        copy.load_state_dict(state)
    except RuntimeError as error:
        raise LoadError(f"{found.where} does not fit src ({type(src).__name__}): {error}. Nothing was written") from error
    return copy


def refuse_alone(found: Checkpoint, dst: nn.Module) -> None:
    """Refuse a checkpoint of a prepared model without that model, for a static int8 destination.

    Raises:
        LoadError: the file has the state of observers.
    """
    held = [key for key in found.state if any(part.startswith(_OBSERVERS) for part in key.split("."))]
    if held and needs_ranges(unwrap(dst)[0]):
        raise LoadError(
            f"{found.where} is a checkpoint of a model that was prepared for quantization (QAT, or observers): "
            f"{shorten(held)}. Which range is which, names do not tell, and the destination is static int8. Nothing was "
            "written. Give the prepared model (src=), and the ranges that it was trained with are used"
        )
