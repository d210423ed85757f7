"""The interface of a source of graphs: one way to get from a model to an fx graph of functions."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from fxmap.capture.captured import Captured
from fxmap.model.inputs import Inputs
from fxmap.trace import stage


@dataclass(frozen=True)
class GraphSource:
    """One way to get from a model to an fx graph.

    `capture_with` gets a replica (whose parameters may be read and whose forward may be run, but which the user never sees)
    and inputs, or None unless `needs_inputs`. It switches the replica to eval mode, and raises CaptureError where it cannot
    capture it. Both models of a mapping are captured by the same source, so that their graphs have the same operations.
    """

    name: str
    capture_with: Callable[[nn.Module, Inputs | None], Captured]
    needs_inputs: bool = False

    def capture(self, replica: nn.Module, inputs: Inputs | None = None) -> Captured:
        """Capture a replica; it is switched to eval mode.

        Raises:
            CaptureError: this source cannot make a graph of the replica; the message says why.
        """
        with stage("capture") as note:
            captured = self.capture_with(replica, inputs)
            note(f"{type(replica).__name__} by {self.name}, {len(captured.graph.nodes)} nodes")
        return captured
