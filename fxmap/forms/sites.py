"""Sites where a converted model quantizes activations, and the keys of its state dict without a float counterpart."""

from dataclasses import dataclass, replace
from enum import StrEnum

import torch


@dataclass(frozen=True, slots=True)
class Site:
    """A place where a converted model quantizes an activation.

    `path` is the module of its float twin that returns the activation; `scale` and `zero_point` are keys of the state dict,
    or numbers where the graph has them as literals of its `node`; `low` to `high` are the integers that are used.
    """

    path: str
    scale: str | float
    zero_point: str | int
    low: int
    high: int
    node: str = ""

    def __str__(self) -> str:
        return self.node or str(self.scale)

    def numbers(self) -> set["RangeRef"]:
        """Return references to the scale and the zero point: keys, or the node that has them as literals."""
        if self.node:
            return {RangeRef(self.node, literal=True)}
        return {RangeRef(key) for key in (self.scale, self.zero_point) if isinstance(key, str)}

    @classmethod
    def of(cls, path: str, scale: str | float, zero_point: str | int, dtype: torch.dtype) -> "Site":
        """Make a site that uses all integers of a quantized dtype."""
        low, high = (-128, 127) if dtype in (torch.qint8, torch.int8) else (0, 255)
        return cls(path, scale, zero_point, low, high)

    def below(self, prefix: str) -> "Site":
        """Return the site with a prefix added to its path and keys: from the graph's names to the model's."""
        scale = prefix + self.scale if isinstance(self.scale, str) else self.scale
        zero_point = prefix + self.zero_point if isinstance(self.zero_point, str) else self.zero_point
        return replace(self, path=prefix + self.path, scale=scale, zero_point=zero_point)


@dataclass(frozen=True, slots=True)
class RangeRef:
    """A number that must come from calibration: a key of the state dict, or the literals of a node of a graph.

    >>> print(RangeRef("conv.scale"), RangeRef("quantize_per_tensor_1", literal=True), sep=", ")
    conv.scale, quantize_per_tensor_1 (a literal of the graph)
    """

    name: str
    literal: bool = False

    def __str__(self) -> str:
        return f"{self.name} (a literal of the graph)" if self.literal else self.name


class KeptReason(StrEnum):
    """The reason why a key of a state dict has no float counterpart, in the words of the report."""

    RANGE = "activation range"
    OBSERVER = "observer"
    CONSTANT = "constant of a converted module"
    OWN_MASK = "a mask that the model makes itself: it depends on positions alone, and the source has none of this shape"
    NEVER_READ = "never read: this attention has a linear layer for each projection"
