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

from importlib.metadata import PackageNotFoundError, version

from fxmap.api.automap import auto_map
from fxmap.api.loading import load, transfer
from fxmap.api.verification import verify
from fxmap.errors import (
    CaptureError,
    CheckpointError,
    DifferentNetworks,
    FxmapError,
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
from fxmap.run.noise import sqnr

__all__ = [
    "CaptureError",
    "CheckpointError",
    "DifferentNetworks",
    "Divergence",
    "FxmapError",
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
    "file_limits",
    "load",
    "sqnr",
    "transfer",
    "verify",
]

try:
    __version__ = version("fxmap")
except PackageNotFoundError:
    # A folder of the source code that nobody installed.
    __version__ = "0+unknown"
