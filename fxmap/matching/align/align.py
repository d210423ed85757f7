"""Align two operation graphs: find pairs of corresponding operations by structure.

Idea: graph matching in the order of the evidence. Operations whose arrangement of ancestors and descendants occurs once on
each side are paired first (Weisfeiler-Lehman colours, see `signatures`); every pair forces pairs among its neighbours
(`partial_matching`); operations that are still ambiguous, such as parallel branches, are assigned at the least total cost
(`assignment`). The steps are done first with static attributes (stride, eps), then repeated without. Operations without a
counterpart stay unmatched: a replaced head or an auxiliary one is a result, not a failure.

>>> from fxmap.graph.opgraph import Op
>>> def network(*names):
...     graph = OpGraph()
...     for name, kind in zip(names, ("input", "linear", "relu", "linear", "output")):
...         graph.add(Op(name, kind))
...     for producer, consumer in zip(names, names[1:]):
...         _ = graph.network.add_edge(producer, consumer, argument="input")
...     return graph
>>> found = align(network("x", "fc1", "act", "fc2", "out"), network("in", "up", "relu", "down", "end"))
>>> print(*found.pairs, sep=", ")
x -> in (signature), fc1 -> up (signature), act -> relu (signature), fc2 -> down (signature), out -> end (signature)

Cost: O(e r) for e edges and the largest radius r of a neighbourhood (16), plus the assignments, O(n^3) each for a block of
n ambiguous operations. The largest common subgraph is NP-hard in general: this is an approximation. Beside an exhaustive
matcher (`tests/matching/align/oracle.py`), on random graphs of at most seven operations, it preserves every edge of 6000
renamed copies; with an operation added or removed it is short by one to three edges in 1.4 % of the pairs (3.3 % where all
operations are of one to three kinds): a neighbour of the same kind is then taken for the missing operation.

Source: B. Weisfeiler, A. Leman, NTI Series 2 (1968) 12-16; D. Conte et al., IJPRAI 18 (2004) 265-298,
doi:10.1142/S0218001404003228 (survey of graph matching).
"""

from collections.abc import Sequence

from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import INPUT, OUTPUT, OpGraph
from fxmap.matching.align import signatures
from fxmap.matching.align.alignment import Alignment, Evidence, Pair
from fxmap.matching.align.assignment import assign
from fxmap.matching.align.partial_matching import PartialMatching
from fxmap.matching.align.signatures import Labels
from fxmap.matching.align.view import View, views

# Radii of neighbourhoods, from the widest to the narrowest that is still evidence.
_RADII = (16, 8, 4, 2)


def align(src: OpGraph, dst: OpGraph, anchors: Sequence[tuple[str, str]] = (), *, thorough: bool = True) -> Alignment:
    """Align two normalised graphs; idea, example and cost are at the head of this module.

    Args:
        src, dst: the graphs. Names take part only where everything else is equal.
        anchors: pairs of operations, by name, that are known to correspond.
        thorough: also use weak evidence: neighbourhoods, assignment by cost, unique shapes of tensors. Without it, only
            signatures count, and the pairs that follow from them.
    """
    matching = PartialMatching(*views(src, dst))
    labels = Labels()
    _pair_ends(matching)
    _pair_anchors(matching, anchors)
    for attributes in (True, False):
        _pair_by_signatures(matching, labels, attributes=attributes, thorough=thorough)
    if thorough:
        _assign_rest(matching)
    _pair_by_position(matching)
    if thorough:
        _pair_by_tensors(matching)
    _pair_by_readers(matching)
    return _alignment(matching)


def _alignment(matching: PartialMatching) -> Alignment:
    ours, theirs = ([op.name for op in side.ops] for side in (matching.src, matching.dst))
    return Alignment(
        tuple(Pair(ours[s], theirs[d], matching.evidence[s]) for s, d in sorted(matching.forward.items())),
        _share(matching),
        tuple(name for s, name in enumerate(ours) if s not in matching.forward),
        tuple(name for d, name in enumerate(theirs) if d not in matching.backward),
    )


def _pair_by_signatures(matching: PartialMatching, labels: Labels, *, attributes: bool, thorough: bool) -> None:
    """Pair operations whose structural labels are unique on both sides, from the most specific label to the least."""
    sides = (matching.src, matching.dst)
    own = [signatures.base(side, labels, attributes=attributes) for side in sides]
    ahead = [signatures.forward(side, labels, base) for side, base in zip(sides, own, strict=True)]
    behind = [signatures.backward(side, labels, base) for side, base in zip(sides, own, strict=True)]
    both = [list(zip(a, b, strict=True)) for a, b in zip(ahead, behind, strict=True)]
    matching.unique(both, Evidence.SIGNATURE)
    matching.unique(ahead, Evidence.ANCESTORS)
    matching.propagate()
    _assign_ties(matching, both)
    matching.unique(behind, Evidence.DESCENDANTS)
    matching.propagate()
    if not thorough:
        return
    around = [signatures.neighbourhoods(side, labels, base, max(_RADII)) for side, base in zip(sides, own, strict=True)]
    for radius in _RADII:
        matching.unique([rounds[radius] for rounds in around], Evidence.NEIGHBOURHOOD)
        matching.propagate()


def _pair_ends(matching: PartialMatching) -> None:
    """Pair inputs by their order, and the outputs, which are one node each."""
    for kind in (INPUT, OUTPUT):
        ends = [[i for i, found in enumerate(side.kinds) if found == kind] for side in (matching.src, matching.dst)]
        for s, d in zip(*ends, strict=False):
            matching.forward[s], matching.backward[d], matching.evidence[s] = d, s, Evidence.SIGNATURE


def _pair_anchors(matching: PartialMatching, anchors: Sequence[tuple[str, str]]) -> None:
    numbers = [{op.name: i for i, op in enumerate(side.ops)} for side in (matching.src, matching.dst)]
    matching.pair([(numbers[0][s], numbers[1][d]) for s, d in anchors], Evidence.VALUES)
    matching.propagate()


def _assign_ties(matching: PartialMatching, labels: list[list[tuple[int, int]]]) -> None:
    """Assign operations with equal ancestors and descendants, which look exchangeable, and mark their pairs as tied."""
    for group in matching.groups(labels).values():
        src = [s for s in group[0] if s not in matching.forward]
        dst = [d for d in group[1] if d not in matching.backward]
        if len(group[0]) == len(group[1]) and src and dst:
            matching.pair(assign(matching, src, dst, tied=True), Evidence.TIED)
            matching.propagate()


def _assign_rest(matching: PartialMatching) -> None:
    """Assign blocks of operations of one kind and shape until nothing changes: every pair may support its neighbours."""
    found = True
    while found:
        found = False
        sides = (matching.src, matching.dst)
        blocks = matching.groups([[(side.kinds[i], side.shapes[i]) for i in range(len(side))] for side in sides])
        for src, dst in blocks.values():
            free = [s for s in src if s not in matching.forward], [d for d in dst if d not in matching.backward]
            pairs = assign(matching, *free, tied=False) if all(free) else []
            matching.pair(pairs, Evidence.ASSIGNED)
            matching.propagate()
            found |= bool(pairs)


def _pair_by_position(matching: PartialMatching) -> None:
    """Pair the only free neighbours of a pair if they are at the same argument: a replaced head, another activation."""
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
                matching.pair([(rest[0][0][1], rest[1][0][1])], Evidence.POSITION)
    matching.propagate()


def _pair_by_readers(matching: PartialMatching) -> None:
    """Re-pair norms by their readers: a norm behind the last layer of a shorter stack is not the first norm of a layer.

    A norm behind four of six layers reads the same value as the first norm of the fifth layer, and so was paired with that.
    But its reader is the head, and no part of a layer; the same holds for the source's norm behind all six layers.
    """
    for s, d in list(matching.forward.items()):
        operands = [dict(side.operands[i]) for side, i in ((matching.src, s), (matching.dst, d))]
        for argument in operands[0].keys() & operands[1].keys():
            chain = _displaced(matching, operands[0][argument], operands[1][argument])
            if any(matching.dst.parametrised(b) for _, b in chain):
                matching.replace(chain, Evidence.PROPAGATED)


def _displaced(matching: PartialMatching, s: int, d: int) -> list[tuple[int, int]]:
    """Return new pairs, from a free source operation and its counterpart upwards, that replace a pair with other readers.

    The pairs reach up to the nearest operation with several operands or that mixes channels (an affine layer), whose inputs
    tell which layer it belongs to. The result is empty if no pair with other readers is among them.
    """
    src, dst = matching.src, matching.dst
    chain = []
    displaced = False
    while (
        s not in matching.forward
        and matching.compatible(s, d)
        and not has(src.kinds[s], Trait.AFFINE)
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


def _pair_by_tensors(matching: PartialMatching) -> None:
    """Pair free operations whose tensors have shapes that no other free operation has: another norm at another place."""
    sides = (matching.src, matching.dst)
    matching.unique(
        [[side.shapes[i] or ("none", k, i) for i in range(len(side))] for k, side in enumerate(sides)], Evidence.POSITION
    )


def _same_place(matching: PartialMatching, src: tuple[str, int], dst: tuple[str, int]) -> bool:
    if src[0] != dst[0]:
        return False
    (_, s), (_, d) = src, dst
    # Another activation at the same place: a pair all the same, so that the proof can name the difference.
    exchanged = not matching.src.parametrised(s) and not matching.dst.parametrised(d)
    return matching.src.kinds[s] == matching.dst.kinds[d] or (
        exchanged and len(matching.src.operands[s]) == len(matching.dst.operands[d]) == 1
    )


def _share(matching: PartialMatching) -> float:
    def count(side: View) -> int:
        return sum(map(side.parametrised, range(len(side))))

    smaller = min(count(matching.src), count(matching.dst))
    aligned = sum(matching.src.parametrised(s) and matching.compatible(s, d) for s, d in matching.forward.items())
    return aligned / smaller if smaller else 0.0
