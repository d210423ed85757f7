"""The result of aligning two operation graphs: pairs of operations that correspond, and the evidence for each pair."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from fxmap.errors import shorten


class Evidence(StrEnum):
    """Why two operations are taken to correspond, from the strongest evidence to the weakest."""

    SIGNATURE = "signature"
    """The only two operations with these ancestors and these descendants; or inputs of one rank in order, or the outputs."""

    ANCESTORS = "ancestors"
    """The only two with the same ancestors: what becomes of their results may differ, as before a replaced head."""

    DESCENDANTS = "descendants"
    """The only two with the same descendants: what they compute from may differ, as behind another stem."""

    PROPAGATED = "propagated"
    """Neighbours of a pair, at the same argument, without a rival of their kind and shapes."""

    VALUES = "values"
    """They gave the same values when both models were run on the same random weights (see `fxmap.matching.search`)."""

    NEIGHBOURHOOD = "neighbourhood"
    """The only two whose surroundings look alike up to a radius: what is further away may differ."""

    ASSIGNED = "assigned"
    """The choice of least total cost in a block of operations of one kind and shape (Hungarian method)."""

    POSITION = "position"
    """What is left at the same place, but of another shape or kind: a replaced head, another activation."""

    TIED = "tied"
    """One of several operations with the same ancestors and descendants: alignment could have chosen another.

    Weak, because alignment ignores movement of data such as transposes: H and W of a map can look interchangeable, and are
    not.
    """

    @property
    def weak(self) -> bool:
        """Whether the pair should be checked against values before it is relied on."""
        return self in (Evidence.NEIGHBOURHOOD, Evidence.ASSIGNED, Evidence.POSITION, Evidence.TIED)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two operations that correspond, by name, and the evidence for it.

    >>> print(Pair("fc", "head", Evidence.SIGNATURE))
    fc -> head (signature)
    """

    src: str
    dst: str
    evidence: Evidence

    def __str__(self) -> str:
        return f"{self.src} -> {self.dst} ({self.evidence})"


@dataclass(frozen=True, slots=True)
class Alignment:
    """The pairs, how much of the smaller network they cover, and the operations of either side without a counterpart.

    `share` is the share of the parametrised operations of the smaller graph that are matched with equal shapes.

    >>> print(Alignment((Pair("a", "x", Evidence.SIGNATURE), Pair("b", "y", Evidence.TIED)), 0.5, src_unmatched=("c",)))
    2 pairs of operations; 50% of the smaller network's layers with weights
      signature 1
      tied      1 (weak)
      unmatched in the source: c
    """

    pairs: tuple[Pair, ...]
    share: float
    src_unmatched: tuple[str, ...] = ()
    dst_unmatched: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = Counter(pair.evidence for pair in self.pairs)
        width = max(map(len, counts), default=0)
        lines = [f"{len(self.pairs)} pairs of operations; {self.share:.0%} of the smaller network's layers with weights"]
        lines += [f"  {e:<{width}} {counts[e]}{' (weak)' if e.weak else ''}" for e in Evidence if counts[e]]
        for side, names in (("source", self.src_unmatched), ("destination", self.dst_unmatched)):
            if names:
                lines.append(f"  unmatched in the {side}: {shorten(names)}")
        return "\n".join(lines)
