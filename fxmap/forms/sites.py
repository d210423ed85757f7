"""Where a converted model quantizes activations, and with which numbers."""

from dataclasses import dataclass, replace

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

    @classmethod
    def of(cls, path: str, scale: str | float, zero_point: str | int, dtype: torch.dtype) -> "Site":
        """Make a site that uses all integers of a quantized dtype."""
        low, high = (-128, 127) if dtype in (torch.qint8, torch.int8) else (0, 255)
        return cls(path, scale, zero_point, low, high)

    def below(self, prefix: str) -> "Site":
        """Return the site of a graph as one of the model that has the graph below a prefix of its keys."""
        scale = prefix + self.scale if isinstance(self.scale, str) else self.scale
        zero_point = prefix + self.zero_point if isinstance(self.zero_point, str) else self.zero_point
        return replace(self, path=prefix + self.path, scale=scale, zero_point=zero_point)
