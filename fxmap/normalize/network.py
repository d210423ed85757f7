"""A network: a captured model together with its normalised operation graph, which every later stage reads."""

from dataclasses import dataclass, field, fields
from functools import cached_property

from fxmap.capture.captured import Captured
from fxmap.graph.build import build
from fxmap.graph.kinds import kind_of
from fxmap.graph.opgraph import INPUT, OUTPUT, TENSOR, OpGraph
from fxmap.normalize.fold import Fold, Foldable
from fxmap.normalize.phases import normalize
from fxmap.normalize.rule import Rewrites
from fxmap.trace import stage


@dataclass(frozen=True)
class Network(Captured):
    """A captured model with its normalised operation graph `ops`, the counts of foldable structures, and the rewrites."""

    ops: OpGraph = field(default_factory=OpGraph)
    foldable: Foldable = field(default_factory=Foldable)
    rewrites: Rewrites = field(default_factory=Rewrites)

    @classmethod
    def of(cls, captured: Captured, fold: Fold | None = None) -> "Network":
        """Build and normalise the operation graph of a captured model; `fold` selects the structures to fold."""
        values = {field.name: getattr(captured, field.name) for field in fields(Captured)}
        with stage("build"):
            built = build(captured.graph, captured.tensors)
        with stage("normalise") as note:
            made = normalize(built, captured.graph, captured.tensors, captured.constants, fold)
            count = sum(op.kind not in (INPUT, OUTPUT, TENSOR) for op in made.ops.ops())
            note(f"{count} operations", operations=count)
        return cls(**values, ops=made.ops, foldable=made.foldable, rewrites=made.rewrites)

    @cached_property
    def covering(self) -> tuple[str, ...]:
        """The windows of pools that are as large as the map, by name: on other maps they are not of all positions."""
        nodes = {node.name: node for node in self.graph.nodes}
        pools = {name for name, node in nodes.items() if kind_of(node) in ("avg_pool", "max_pool")}
        return tuple(op.module or op.name for op in self.ops.of_kind({"mean", "amax"}) if op.name in pools)

    @cached_property
    def read(self) -> frozenset[str]:
        """The paths of the tensors that the graph reads."""
        return frozenset(self.ops.keys())
