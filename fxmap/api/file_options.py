"""Options of reading a checkpoint and mapping it to a destination, which `load`, `convert` and files with a graph share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from fxmap.api.verdict import Verify


@dataclass(frozen=True)
class FileOptions:
    """How a checkpoint is read, mapped and judged: arguments of `load`, which describes them.

    `given` are those that `auto_map` takes: inputs, ways to call the models, `absorb_eps`.
    """

    src: nn.Module | None = None
    weights: str | None = None
    lora_alpha: float | None = None
    strict: bool = True
    on_mismatch: Literal["raise", "keep"] = "raise"
    verify: Verify = True
    given: Mapping[str, Any] = field(default_factory=dict)
