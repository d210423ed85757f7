"""Options of mapping two models, which `auto_map`, `transfer`, `load` and `convert` share."""

from dataclasses import dataclass
from typing import Any, Literal

from fxmap.model.inputs import Forward, Given


@dataclass(frozen=True)
class MapOptions:
    """How two models are called, mapped and proven: arguments of `auto_map`, which describes them."""

    example_inputs: Any = None
    dst_inputs: Any = None
    src_forward: Forward | None = None
    dst_forward: Forward | None = None
    verify: bool | Literal["required"] = True
    absorb_eps: bool = False
    allow_code: bool = False
    streamed: bool | None = None

    def given(self, src: Any, dst: Any) -> Given:
        """Read the inputs and functions for a source, which may be a checkpoint, and a destination."""
        return Given.of(self.example_inputs, self.dst_inputs, self.src_forward, self.dst_forward, models=(src, dst))
