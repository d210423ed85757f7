"""The operations of a recorded run that read weights, and the fx nodes that hold their inputs and outputs."""

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor, fx

from fxmap.matching.align import signatures
from fxmap.matching.align.view import View, view
from fxmap.normalize.network import Network
from fxmap.run.lockstep import channels

RADII = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class RecordedLayer:
    """An operation with weights, the fx nodes of its data inputs, and the fx node of its output.

    `rows` are the channels of the output, along `axis`, that this operation computes. `likeness` has labels of its
    neighbourhoods, from the narrowest to the widest.
    """

    name: str
    form: Hashable
    start: fx.Node
    inputs: tuple[fx.Node, ...]
    output: fx.Node
    rows: tuple[int, ...] | None
    axis: int
    likeness: tuple[int, ...]

    def read(self, value: Tensor) -> Tensor:
        """Return the channels of the output node's value that this operation computes."""
        return channels(value, self.rows, self.axis)


def recorded_layers(captured: Network, labels: signatures.Labels) -> list[RecordedLayer]:
    """Return the operations that read tensors of the state dict, in the order of execution."""
    seen = view(captured.ops)
    likeness = _likeness(seen, labels)
    nodes = {node.name: node for node in captured.graph.nodes}
    position = {node: index for index, node in enumerate(captured.graph.nodes)}
    found = []
    for i, op in enumerate(seen.ops):
        start, output = nodes.get(op.name.partition("#")[0]), nodes.get(op.output)
        if not seen.parametrised(i) or start is None or output is None:
            continue
        inputs = tuple(part for part in start.all_input_nodes if part.name not in captured.ops.weights)
        form = (seen.kinds[i], seen.shapes[i])
        found.append(RecordedLayer(op.name, form, start, inputs, output, op.rows, op.channel_axis, likeness[i]))
    return sorted(found, key=lambda layer: position[layer.start])


def _likeness(seen: View, labels: signatures.Labels) -> list[tuple[int, ...]]:
    own = signatures.base(seen, labels, attributes=True)
    rounds = signatures.neighbourhoods(seen, labels, own, max(RADII))
    return list(zip(*(rounds[radius] for radius in RADII), strict=True))
