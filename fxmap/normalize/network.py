"""A network: a captured model together with its normalised operation graph, which every later stage reads."""

from dataclasses import dataclass, field, fields
from functools import cached_property

from fxmap.capture.captured import Captured
from fxmap.graph.build import build
from fxmap.graph.opgraph import OpGraph
from fxmap.normalize.driver import Fold, normalize


@dataclass(frozen=True)
class Network(Captured):
    """A captured model and `ops`, its normalised operation graph."""

    ops: OpGraph = field(default_factory=OpGraph)

    @classmethod
    def of(cls, captured: Captured, fold: Fold | None = None) -> "Network":
        """Build and normalise the operation graph of a captured model; `fold` says what of it is folded."""
        values = {field.name: getattr(captured, field.name) for field in fields(Captured)}
        built = build(captured.graph, captured.tensors)
        return cls(**values, ops=normalize(built, captured.graph, captured.tensors, captured.constants, fold))

    @cached_property
    def read(self) -> frozenset[str]:
        """The paths of the tensors that the graph reads."""
        return frozenset(self.ops.keys())
