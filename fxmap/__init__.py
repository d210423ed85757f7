"""Load a checkpoint into a model that computes the same network and names it differently.

>>> import fxmap
>>> from torch import nn
>>> src, dst = nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Identity(), nn.Linear(3, 2))
>>> mapping = fxmap.auto_map(src, dst)
>>> mapping.renames
{'1.weight': '0.weight', '1.bias': '0.bias'}
>>> mapping.load_into(dst, src.state_dict()).written
2
"""

import random
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from fxmap.imports import half_of_imports

if TYPE_CHECKING:
    from fxmap.api.automap import auto_map
    from fxmap.api.comparison import verify_files
    from fxmap.api.conversion import convert
    from fxmap.api.loading import load, transfer
    from fxmap.api.verification import verify
    from fxmap.errors import (
        ArgumentError,
        CaptureError,
        CheckpointError,
        DifferentNetworks,
        FaultWarning,
        FxmapError,
        InternalError,
        LoadError,
        MappingError,
        MissingCalibration,
        ProofError,
        ProofWarning,
        QuantizationError,
    )
    from fxmap.files.limits import file_limits
    from fxmap.mapping.key_mapping import KeyMapping
    from fxmap.mapping.proof import Divergence, Proof, Status
    from fxmap.model.weightless import without_weights
    from fxmap.run.noise import sqnr
    from fxmap.trace import progress

__all__ = [
    "ArgumentError",
    "CaptureError",
    "CheckpointError",
    "DifferentNetworks",
    "Divergence",
    "FaultWarning",
    "FxmapError",
    "InternalError",
    "KeyMapping",
    "LoadError",
    "MappingError",
    "MissingCalibration",
    "Proof",
    "ProofError",
    "ProofWarning",
    "QuantizationError",
    "Status",
    "__version__",
    "auto_map",
    "convert",
    "file_limits",
    "load",
    "progress",
    "sqnr",
    "transfer",
    "verify",
    "verify_files",
    "without_weights",
]

try:
    __version__ = version("fxmap")
except PackageNotFoundError:
    # A folder of the source code that nobody installed.
    __version__ = "0+unknown"

# Where each name lives. They are imported when they are asked for, and torch with them, so that the command line can say its
# version, and be interrupted, at once.
_HOMES = {
    "fxmap.api.automap": ("auto_map",),
    "fxmap.api.comparison": ("verify_files",),
    "fxmap.api.conversion": ("convert",),
    "fxmap.api.loading": ("load", "transfer"),
    "fxmap.api.verification": ("verify",),
    "fxmap.errors": (
        "ArgumentError",
        "CaptureError",
        "CheckpointError",
        "DifferentNetworks",
        "FaultWarning",
        "FxmapError",
        "InternalError",
        "LoadError",
        "MappingError",
        "MissingCalibration",
        "ProofError",
        "ProofWarning",
        "QuantizationError",
    ),
    "fxmap.files.limits": ("file_limits",),
    "fxmap.mapping.key_mapping": ("KeyMapping",),
    "fxmap.mapping.proof": ("Divergence", "Proof", "Status"),
    "fxmap.model.weightless": ("without_weights",),
    "fxmap.run.noise": ("sqnr",),
    "fxmap.trace": ("progress",),
}


def _imported(home: str, name: str) -> Any:
    """Import what has a name; a library on the way draws a random number, and an interrupt leaves half of one."""
    state = random.getstate()
    try:
        import_module("torch")  # and numpy, which no process can load twice
        forget = half_of_imports()
        try:
            return getattr(import_module(home), name)
        except BaseException:
            forget()
            raise
    finally:
        random.setstate(state)


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is not None:
        value = _imported(home, name)
        globals()[name] = value
        return value
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
