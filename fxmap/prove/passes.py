"""The cost of a proof."""

from dataclasses import dataclass


@dataclass(slots=True)
class Passes:
    """Counts forward passes, a backward pass as two: what a proof costs, and reports."""

    count: int = 0

    def add(self, forwards: int = 1) -> None:
        """Count passes that are about to run, or that ran."""
        self.count += forwards
