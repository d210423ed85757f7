"""Options of reading a checkpoint and mapping it to a destination, which `load`, `convert` and files with a graph share."""

from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from fxmap.api.map_options import MapOptions
from fxmap.api.verdict import Verify


@dataclass(frozen=True)
class FileOptions:
    """How a checkpoint is read, mapped and judged: arguments of `load`, which describes them.

    `given` are those that `auto_map` takes as well; of the two kinds of `verify`, that of `load` counts.
    """

    src: nn.Module | None = None
    weights: str | None = None
    lora_alpha: float | None = None
    strict: bool = True
    on_mismatch: Literal["raise", "keep"] = "raise"
    verify: Verify = True
    given: MapOptions = field(default_factory=MapOptions)
