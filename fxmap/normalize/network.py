"""A network: a captured model together with its normalised operation graph, which every later stage reads."""

from dataclasses import dataclass, field, fields
from functools import cached_property

from fxmap.capture.captured import Captured
from fxmap.graph.build import build
from fxmap.graph.opgraph import OpGraph
from fxmap.normalize.fold import Fold, Foldable
from fxmap.normalize.phases import normalize
from fxmap.normalize.rule import Rewrites


@dataclass(frozen=True)
class Network(Captured):
    """A captured model and `ops`, its normalised operation graph; what could be folded of it, and what the rules did."""

    ops: OpGraph = field(default_factory=OpGraph)
    foldable: Foldable = field(default_factory=Foldable)
    rewrites: Rewrites = field(default_factory=Rewrites)

    @classmethod
    def of(cls, captured: Captured, fold: Fold | None = None) -> "Network":
        """Build and normalise the operation graph of a captured model; `fold` says what of it is folded."""
        values = {field.name: getattr(captured, field.name) for field in fields(Captured)}
        built = build(captured.graph, captured.tensors)
        made = normalize(built, captured.graph, captured.tensors, captured.constants, fold)
        return cls(**values, ops=made.ops, foldable=made.foldable, rewrites=made.rewrites)

    @cached_property
    def read(self) -> frozenset[str]:
        """The paths of the tensors that the graph reads."""
        return frozenset(self.ops.keys())
