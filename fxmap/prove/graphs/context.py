"""The context of a proof: the two graphs, the aligned pairs of operations, and the tensors that both models ran with."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from fxmap.mapping.key_mapping import KeyMapping
from fxmap.matching.align.alignment import Pair
from fxmap.matching.plan import Plan
from fxmap.matching.sides import Side
from fxmap.prove.graphs.equality import same_tensors
from fxmap.prove.runs.weights import Weights


@dataclass(frozen=True)
class Context:
    """A mapping, its two models, their aligned operations, and the tensors that both ran with.

    `pairs` are those that a proof compares, in the order in which the destination computes. `shown` are pieces of the source
    and of the destination that need no counterpart, since they break at the values that the other model's pieces break at.
    """

    mapping: KeyMapping
    plan: Plan
    weights: Weights
    pairs: tuple[Pair, ...]
    shown: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())

    @property
    def src(self) -> Side:
        """The source."""
        return self.plan.src

    @property
    def dst(self) -> Side:
        """The destination."""
        return self.plan.dst

    @cached_property
    def partners(self) -> dict[str, str]:
        """The source operation of each aligned destination operation, by name."""
        return {pair.dst: pair.src for pair in self.plan.alignment.pairs}

    @cached_property
    def images(self) -> dict[str, str]:
        """The destination operation of each aligned source operation, by name."""
        return {pair.src: pair.dst for pair in self.plan.alignment.pairs}

    @cached_property
    def same(self) -> dict[Pair, dict[str, bool]]:
        """For every pair, by argument of the destination's operation: whether the source's holds the same numbers."""
        return {pair: self._same(pair) for pair in self.pairs}

    def _same(self, pair: Pair) -> dict[str, bool]:
        src, dst = self.src.main.ops, self.dst.main.ops
        ours = {argument: src.value(tensor, self.weights.src) for argument, tensor in src.tensors(pair.src).items()}
        theirs = {argument: dst.value(tensor, self.weights.dst) for argument, tensor in dst.tensors(pair.dst).items()}
        return same_tensors(src.op(pair.src), ours, dst.op(pair.dst), theirs)

    def made(self) -> set[str]:
        """Return the destination tensors that differ from the source's in some use, such as folded ones.

        Only the values of runs can prove these, as far as inputs reach them.
        """
        ops = self.dst.main.ops
        return {
            key
            for pair, found in self.same.items()
            for argument, same in found.items()
            if not same
            for key in ops.stored(ops.tensors(pair.dst)[argument])
        }

    @cached_property
    def both(self) -> tuple["AlignedSide", "AlignedSide"]:
        """The source and the destination, each with the counterparts of its operations."""
        return AlignedSide(self.src, self.images), AlignedSide(self.dst, self.partners)


@dataclass(frozen=True)
class AlignedSide:
    """One of the two models, and the counterpart of each of its aligned operations."""

    side: Side
    known: Mapping[str, str]

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """The fx nodes by name."""
        return {node.name: node for node in self.side.main.graph.nodes}

    @cached_property
    def aligned_nodes(self) -> frozenset[str]:
        """The fx nodes whose values are those of the aligned operations."""
        return frozenset(self.side.main.ops.op(name).output for name in self.known)


def is_part(pair: Pair) -> bool:
    """Whether one of the two operations is a part of an operation that was split."""
    return any("#" in name for name in (pair.src, pair.dst))


def place(side: Side, name: str) -> str:
    """Name an operation for a reader: its module in the user's model, and its kind.

    As in `layer1.0.conv1 (convolution)`.
    """
    op = side.main.ops.op(name)
    return f"{side.prefix}{op.module or op.name} ({op.spelling})"
