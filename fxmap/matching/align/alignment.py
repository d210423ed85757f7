"""Align: which operation of one graph is which of the other.

From the strongest evidence to the weakest: pairs that signatures pin, what follows from them by propagation, and an
assignment of what stays ambiguous. Operations without a counterpart stay unmatched: a replaced head or an auxiliary one is
a result, not a failure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import INPUT, OUTPUT, OpGraph
from fxmap.matching.align import signatures
from fxmap.matching.align.assignment import assign
from fxmap.matching.align.matching import Matching
from fxmap.matching.align.view import View, view

# Neighbourhoods from the widest to the narrowest that is still evidence.
_RADII = (16, 8, 4, 2)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two operations that correspond, and why.

    `evidence` is "signature" (ancestors and descendants), "ancestors", "descendants", "neighbourhood", "propagated",
    "assigned", "values" (the same in a run of both), "tied" (an automorphism may exchange it with another) or "position"
    (what is left at the same place, but of another shape or kind).
    """

    src: str
    dst: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Alignment:
    """The pairs, and how much of the smaller network they cover.

    `share` is the share of the parametrised operations of the smaller graph that are matched with equal shapes.
    """

    pairs: tuple[Pair, ...]
    share: float


def align(src: OpGraph, dst: OpGraph, anchors: Sequence[tuple[str, str]] = (), *, thorough: bool = True) -> Alignment:
    """Align two normalised graphs. O(e) for e edges, times the largest radius; plus assignment of ambiguous blocks.

    `anchors` are pairs of operations, by name, that are known to correspond. Unless `thorough`, only strong evidence counts:
    signatures, and what follows from them. Names take part only where everything else is equal.
    """
    matching = Matching(view(src), view(dst))
    labels = signatures.Labels()
    _pair_ends(matching)
    _pair_anchors(matching, anchors)
    for attributes in (True, False):
        own = [signatures.base(side, labels, attributes=attributes) for side in (matching.src, matching.dst)]
        ahead = [
            signatures.forward(side, labels, base) for side, base in zip((matching.src, matching.dst), own, strict=True)
        ]
        behind = [
            signatures.backward(side, labels, base) for side, base in zip((matching.src, matching.dst), own, strict=True)
        ]
        both = [list(zip(a, b, strict=True)) for a, b in zip(ahead, behind, strict=True)]
        matching.unique(both, "signature")
        matching.unique(ahead, "ancestors")
        matching.propagate()
        _assign_ties(matching, both)
        matching.unique(behind, "descendants")
        matching.propagate()
        if not thorough:
            continue
        around = [
            signatures.neighbourhoods(side, labels, base, max(_RADII))
            for side, base in zip((matching.src, matching.dst), own, strict=True)
        ]
        for radius in _RADII:
            matching.unique([rounds[radius] for rounds in around], "neighbourhood")
            matching.propagate()
    if thorough:
        _assign_rest(matching)
    _pair_by_position(matching)
    if thorough:
        _pair_by_tensors(matching)
    _pair_by_readers(matching)
    pairs = tuple(
        Pair(matching.src.ops[s].name, matching.dst.ops[d].name, matching.evidence[s])
        for s, d in sorted(matching.forward.items())
    )
    return Alignment(pairs, _share(matching))


def _pair_ends(matching: Matching) -> None:
    """Pair inputs by their order, and the outputs, which are one node each."""
    for kind in (INPUT, OUTPUT):
        ends = [[i for i, found in enumerate(side.kinds) if found == kind] for side in (matching.src, matching.dst)]
        for s, d in zip(*ends, strict=False):
            matching.forward[s], matching.backward[d], matching.evidence[s] = d, s, "signature"


def _pair_anchors(matching: Matching, anchors: Sequence[tuple[str, str]]) -> None:
    numbers = [{op.name: i for i, op in enumerate(side.ops)} for side in (matching.src, matching.dst)]
    matching.pair([(numbers[0][s], numbers[1][d]) for s, d in anchors], "values")
    matching.propagate()


def _assign_ties(matching: Matching, labels: list[list[tuple[int, int]]]) -> None:
    """Operations with equal ancestors and descendants are exchangeable: take one way, and remember that it was a choice."""
    for group in matching.groups(labels).values():
        src = [s for s in group[0] if s not in matching.forward]
        dst = [d for d in group[1] if d not in matching.backward]
        if len(group[0]) == len(group[1]) and src and dst:
            matching.pair(assign(matching, src, dst, tied=True), "tied")
            matching.propagate()


def _assign_rest(matching: Matching) -> None:
    """Assign blocks of one kind and shape until nothing changes: every pair may give its neighbours support."""
    found = True
    while found:
        found = False
        sides = (matching.src, matching.dst)
        blocks = matching.groups([[(side.kinds[i], side.shapes[i]) for i in range(len(side))] for side in sides])
        for src, dst in blocks.values():
            free = [s for s in src if s not in matching.forward], [d for d in dst if d not in matching.backward]
            pairs = assign(matching, *free, tied=False) if all(free) else []
            matching.pair(pairs, "assigned")
            matching.propagate()
            found |= bool(pairs)


def _pair_by_position(matching: Matching) -> None:
    """Pair what is left where both sides have one candidate at the same place: a replaced head, another activation."""
    for s, d in list(matching.forward.items()):
        for mine, other in (
            (matching.src.operands[s], matching.dst.operands[d]),
            (matching.src.users[s], matching.dst.users[d]),
        ):
            rest = (
                [(a, i) for a, i in mine if i not in matching.forward],
                [(a, i) for a, i in other if i not in matching.backward],
            )
            if len(rest[0]) == len(rest[1]) == 1 and _same_place(matching, rest[0][0], rest[1][0]):
                matching.pair([(rest[0][0][1], rest[1][0][1])], "position")
    matching.propagate()


def _pair_by_readers(matching: Matching) -> None:
    """Move norms to the other end of a gap: in a shorter stack of layers, what follows the last one begins no layer.

    The norm behind four of six layers computes from what the first norm of the fifth layer computes from, and so was paired
    with that one. But it is read by the head, and by nothing that a layer has; as is the source's norm behind all six.
    """
    for s, d in list(matching.forward.items()):
        operands = [dict(side.operands[i]) for side, i in ((matching.src, s), (matching.dst, d))]
        for argument in operands[0].keys() & operands[1].keys():
            chain = _displaced(matching, operands[0][argument], operands[1][argument])
            if any(matching.dst.parametrised(b) for _, b in chain):
                matching.replace(chain, "propagated")


def _displaced(matching: Matching, s: int, d: int) -> list[tuple[int, int]]:
    """Return a free operation and one that is paired with another whose readers are others; and what leads up to both.

    Up to the nearest operation that joins values, or mixes channels: which layer that one belongs to, its inputs tell.
    """
    src, dst = matching.src, matching.dst
    chain = []
    displaced = False
    while (
        s not in matching.forward
        and matching.compatible(s, d)
        and not has(matching.src.kinds[s], Trait.AFFINE)
        and len(src.operands[s]) == len(dst.operands[d]) == 1
        and len(dst.users[d]) == 1
    ):
        taken = matching.backward.get(d)
        if taken is not None and not displaced:
            readers = {matching.forward.get(user) for _, user in src.users[taken]}
            displaced = readers.isdisjoint(user for _, user in dst.users[d])
            if not displaced:
                return []
        chain.append((s, d))
        s, d = src.operands[s][0][1], dst.operands[d][0][1]
    return chain if displaced else []


def _pair_by_tensors(matching: Matching) -> None:
    """Pair what is left where its tensors have shapes that no other operation has: another norm at another place."""
    sides = (matching.src, matching.dst)
    matching.unique(
        [[side.shapes[i] or ("none", k, i) for i in range(len(side))] for k, side in enumerate(sides)], "position"
    )


def _same_place(matching: Matching, src: tuple[str, int], dst: tuple[str, int]) -> bool:
    if src[0] != dst[0]:
        return False
    (_, s), (_, d) = src, dst
    # Another activation at the same place: a pair all the same, so that the proof can name the difference.
    exchanged = not matching.src.parametrised(s) and not matching.dst.parametrised(d)
    return matching.src.kinds[s] == matching.dst.kinds[d] or (
        exchanged and len(matching.src.operands[s]) == len(matching.dst.operands[d]) == 1
    )


def _share(matching: Matching) -> float:
    def count(side: View) -> int:
        return sum(map(side.parametrised, range(len(side))))

    smaller = min(count(matching.src), count(matching.dst))
    aligned = sum(matching.src.parametrised(s) and matching.compatible(s, d) for s, d in matching.forward.items())
    return aligned / smaller if smaller else 0.0
