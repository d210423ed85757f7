"""Graphs: the two aligned operation graphs as plain records, for a report that shows what corresponds to what.

They hold names alone, no tensors and no modules, so that a mapping can keep them.

>>> relu = Operation("relu", "relu", "block.0.act", reads=(0,))
>>> layer = Operation("fc", "linear", "block.0.fc", keys=("block.0.fc.weight",))
>>> drawn = Drawn((layer, relu), {"block.0.fc.weight": (4, 8)})
>>> drawn.under("model.").operations[0].keys
('model.block.0.fc.weight',)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of a graph.

    Attributes:
        name: its name in the graph.
        kind: what it computes, as the user's code has it.
        module: the path of the module that runs it.
        reads: the places of the operations whose results it reads, in the list of all.
        keys: the keys of the state dict that it reads.
        text: its attributes, for a reader.
    """

    name: str
    kind: str
    module: str
    reads: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One graph: its operations, producers before consumers, and the shapes of the tensors in its model's state dict."""

    operations: tuple[Operation, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def under(self, prefix: str) -> "Drawn":
        """Return the same graph with a prefix before every key."""
        operations = tuple(replace(op, keys=tuple(prefix + key for key in op.keys)) for op in self.operations)
        return Drawn(operations, {prefix + key: shape for key, shape in self.shapes.items()})


@dataclass(frozen=True, slots=True)
class Graphs:
    """Source and destination, and which operation of one is which of the other, by their places, with the evidence."""

    src: Drawn = field(default_factory=Drawn)
    dst: Drawn = field(default_factory=Drawn)
    pairs: tuple[tuple[int, int, str], ...] = ()

    def under(self, prefix: str) -> "Graphs":
        """Return the same graphs with a prefix before every key of the destination."""
        return replace(self, dst=self.dst.under(prefix))
