"""The cost of a proof."""

from dataclasses import dataclass

from fxmap.trace import count_passes


@dataclass(slots=True)
class Passes:
    """Counts the forward passes of a proof, as its cost; a backward pass counts as two."""

    count: int = 0

    def add(self, forwards: int = 1) -> None:
        """Count passes that are about to run, or that ran."""
        self.count += forwards
        count_passes(forwards)
