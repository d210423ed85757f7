"""The errors of fxmap: each message names the fault, its place, its cause, and the next step.

>>> raise MissingCalibration("fc.scale", ["fc.scale"])  # doctest: +ELLIPSIS
Traceback (most recent call last):
...
fxmap.errors.MissingCalibration: ...
"""

from collections.abc import Sequence


class FxmapError(Exception):
    """Base class: catch it to catch every error that fxmap raises on purpose."""


class CaptureError(FxmapError):
    """A model could not be turned into a graph; the message names the file and the line."""


class DifferentNetworks(FxmapError):
    """Too few operations of the two models align: they are not the same network."""


class LoadError(FxmapError):
    """A state dict does not fit; nothing was written."""


class CheckpointError(FxmapError):
    """A file could not be read safely, or is not a checkpoint."""


class MappingError(FxmapError):
    """A mapping is malformed, or was asked for a key that it does not make."""


class QuantizationError(FxmapError):
    """A quantized model cannot be filled, or cannot run, as it was built."""


class ProofError(FxmapError):
    """A run refuted the mapping, or `verify="required"` was asked for and a key that the output depends on is not proven."""


class ProofWarning(UserWarning):
    """Something was written that is not proven, or that is known to compute something else; the message names it."""


class ArgumentError(FxmapError, ValueError, TypeError):
    """An argument has a value that the function does not take; the message names those that it does."""


class FaultWarning(UserWarning):
    """A stage of fxmap failed by a bug, and the others answered; the message names the stage. Please report it."""


class InternalError(FxmapError, AssertionError):
    """A bug in fxmap, by which nothing can be answered; what was raised is its cause. Please report it."""


class MissingCalibration(QuantizationError):
    """A static int8 destination needs activation ranges, which weights alone do not determine.

    `observed` says that the source has observers or fake-quantizers, which hold ranges.
    """

    def __init__(self, example: str, keys: Sequence[str], observed: bool = False) -> None:
        own = (
            " The source has observers: where these have seen data, fxmap.transfer(src, dst), or fxmap.load with the "
            "checkpoint and src=src, takes over their ranges."
        )
        super().__init__(
            f"{example} (and {len(keys) - 1} more keys): the destination is static int8, and its activation ranges "
            "belong to other weights; they cannot be computed from weights alone. Nothing was written. Either give data: "
            "fxmap.transfer(src, dst, calibration=batches) with a few dozen typical inputs; or "
            'let fxmap make inputs from the statistics of the source\'s batch norms: calibration="distilled"; or keep the '
            'destination\'s own ranges at your word: calibration="keep".'
            f"{own if observed else ''}"
        )
        self.keys = tuple(keys)


def shorten(names: Sequence[str], limit: int = 4) -> str:
    """Join names for a message, and say how many were left out.

    >>> shorten(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
