"""The plan: the alignment of two models and the tensors derived from it, before they are written as state dict keys."""

from collections import Counter
from dataclasses import dataclass, field

from fxmap.graph.opgraph import INPUT, OUTPUT, TENSOR
from fxmap.matching.align.alignment import Alignment
from fxmap.matching.derive.derivation import Derivation
from fxmap.matching.sides import Side

# Below this share of the smaller network, two models are different networks.
SAME_NETWORK = 0.2


@dataclass(frozen=True)
class Plan:
    """The alignment of two models and the tensors derived from it: the basis of the mapping and of its proof."""

    src: Side
    dst: Side
    alignment: Alignment
    derivation: Derivation = field(default_factory=Derivation)

    @property
    def different(self) -> bool:
        """Whether so few operations align that the models are different networks, and nothing is derived otherwise."""
        return self.alignment.share < SAME_NETWORK and not self.derivation.expressions

    @property
    def certain(self) -> bool:
        """Whether structure decided everything: every tensor that the destination reads has a source, on strong evidence."""
        return not self.doubt

    @property
    def doubt(self) -> str:
        """A sentence that names the first thing that structure left undecided; empty if there is none."""
        tensors = self.dst.main.ops.tensors
        weak = next((pair for pair in self.alignment.pairs if pair.evidence.weak and tensors(pair.dst)), None)
        if weak is not None:
            return f"{weak.dst} is {weak.src} on weak evidence ({weak.evidence})"
        unsplit = self.src.main.ops.unsplit or self.dst.main.ops.unsplit
        if unsplit:
            return f"{min(unsplit)} holds several layers joined, and where they part is not known without shapes"
        without = self._without_source()
        if without:
            return f"{len(without)} tensors that the destination reads have no source, such as {min(without)}"
        crossed = self._crossed()
        return f"{crossed} joins its operands in another order than its counterpart" if crossed else ""

    def _without_source(self) -> frozenset[str]:
        return self.dst.main.read - (self.derivation.expressions.keys() | self.derivation.mismatched.keys())

    def _crossed(self) -> str:
        """Return an operation that reads a value as another argument than its counterpart does; empty if there is none."""
        src, dst = self.src.main.ops, self.dst.main.ops
        partners = {pair.dst: pair.src for pair in self.alignment.pairs}
        for pair in self.alignment.pairs:
            ours = src.operands(pair.src)
            if len(ours) < 2:
                continue  # nothing to exchange, however it is called
            for argument, producers in dst.operands(pair.dst).items():
                known = {partners[producer] for producer in producers if producer in partners}
                others = {name for use, names in ours.items() if use != argument for name in names}
                if known & others and not known <= set(ours.get(argument, ())):
                    return pair.dst
        return ""

    def __str__(self) -> str:
        evidence = Counter(pair.evidence for pair in self.alignment.pairs)
        counts = ", ".join(f"{count} {name}" for name, count in evidence.most_common())
        made = self.derivation
        return "\n".join(
            (
                f"source: {_described(self.src)}",
                f"destination: {_described(self.dst)}",
                f"{len(self.alignment.pairs)} pairs of operations ({counts}) cover {self.alignment.share:.0%}",
                f"{len(made.expressions)} tensors are made, {len(made.mismatched)} have another shape, "
                f"{len(self._without_source())} that are read have no source",
            )
        )


def _described(side: Side) -> str:
    count = sum(op.kind not in (INPUT, OUTPUT, TENSOR) for op in side.main.ops.ops())
    return f"{type(side.model).__name__}, {side.twin.stage}, {count} operations by {side.main.rung}"
