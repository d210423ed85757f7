"""First divergence: which aligned operations are the same, and where two models differ first.

Idea: an operation is the same as its counterpart if both gave equal values on equal inputs, have equal static attributes and
are read alike. The first one that is not, in the order in which the destination computes, is where the two models part.

How far equal values reach depends on the operation. Operations that are analytic in their inputs and tensors and agree at a
random point agree everywhere, with probability one (`Trait.ANALYTIC`): this is polynomial identity testing (Schwartz 1980,
doi:10.1145/322217.322225; Zippel 1979, doi:10.1007/3-540-09519-5_73) for analytic functions. Operations that are made of
pieces (ReLU6, max pooling, clamping) agree only on the pieces that were reached, so they count as the same if their kinds,
attributes and operands are, and one without a counterpart stands against a proof whatever the values say.

>>> from torch import nn
>>> import fxmap
>>> net = lambda act: nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 2))
>>> print(fxmap.auto_map(net(nn.ReLU()), net(nn.ReLU6())).proof.divergence)
first divergence: 1 (hardtanh) against 1 (relu): hardtanh against relu (equal on these inputs)

Cost: linear in the edges of the graphs, and one comparison of every tensor.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import networkx as nx

from fxmap.graph.opgraph import INPUT, OUTPUT
from fxmap.mapping.proof import TOLERANCE, Divergence
from fxmap.matching.align.alignment import Pair
from fxmap.prove.graphs.aligned import varying_operations
from fxmap.prove.graphs.causes import (
    Cause,
    attribute_cause,
    constant_cause,
    input_cause,
    operand_cause,
    tensor_cause,
    unaligned_cause,
)
from fxmap.prove.graphs.context import AlignedSide, Context, is_part, place
from fxmap.prove.graphs.explained import is_explained
from fxmap.prove.graphs.readers import Readers, compared_outputs, has_unaligned_rival, refuted_by_readers
from fxmap.run.lockstep import Names


@dataclass(frozen=True, slots=True)
class Verdict:
    """The first divergence, and the operations of the destination that are the same as their source.

    Those that are `unclear` agree with their source as well, but their readers do not tell which of several they are.
    `explained` says of outputs that differ whether something that is named accounts for it.

    >>> print(Verdict(None, frozenset({"fc"}), ("q", "k")))
    no divergence; 1 operation the same, 2 not told apart from others: q, k
    """

    divergence: Divergence | None
    sound: frozenset[str]
    unclear: tuple[str, ...] = ()
    explained: bool = False

    def __str__(self) -> str:
        first = "no divergence" if self.divergence is None else str(self.divergence)
        count = f"{len(self.sound)} operation{'' if len(self.sound) == 1 else 's'} the same"
        rest = f", {len(self.unclear)} not told apart from others: {', '.join(self.unclear)}" if self.unclear else ""
        return f"{first}; {count}{rest}"


def judge(
    context: Context,
    errors: Mapping[Names, float],
    loose: Iterable[Names],
    error: float,
    returned: Iterable[tuple[int, int]] = (),
    *,
    operands: Mapping[Names, str] | None = None,
) -> Verdict:
    """Find the first divergence, and the operations that are the same.

    Args:
        context: the two models and their pairs.
        errors: the largest error of each pair over all runs.
        loose: pairs whose values agree in another layout, or times a constant.
        error: the error of the outputs.
        returned: which output of the source is which of the destination.
        operands: pairs that are made of pieces and read other values, and the argument under which they do.
    """
    pairs, loose = context.pairs, set(loose)
    sizes = {pair: errors.get((pair.src, pair.dst), float("inf")) for pair in pairs}
    causes = {pair: _cause(context, pair, loose) or operand_cause(pair, operands or {}) for pair in pairs}
    wrong = {pair for pair in pairs if not sizes[pair] <= TOLERANCE or causes[pair]}
    # In which order the rows of a part are, only its readers show.
    rows = {(pair.src, pair.dst) for pair in pairs if is_part(pair)}
    refuted = refuted_by_readers(context, loose | rows, wrong, error)
    # A part that holds the source's numbers is not where the two differ, its reader is.
    read_wrong = {pair for pair in refuted if is_part(pair) and all(context.same[pair].values())}
    wrong |= refuted
    first = next((pair for pair in pairs if pair in wrong - read_wrong), None) or next(
        (pair for pair in pairs if pair in wrong), None
    )
    sound = [pair for pair in pairs if pair not in wrong]
    if first is not None:
        divergence: Divergence | None = _at(context, first, sizes[first], causes[first])
    elif not error <= TOLERANCE:
        divergence = _behind(context, error) or _unshown(context, error) or _returned(context, error)
    else:
        divergence = _unshown(context, error)
    readers = Readers(context, compared_outputs(context, returned))
    consistent = frozenset(pair.dst for pair in sound if readers.agree(pair))
    unclear = [pair for pair in sound if pair.dst not in consistent and not has_unaligned_rival(context, pair.src)]
    explained = not error <= TOLERANCE and is_explained(context, first, sizes)
    return Verdict(divergence, consistent, tuple(pair.dst for pair in unclear), explained)


def _cause(context: Context, pair: Pair, loose: set[Names]) -> Cause | None:
    """Return a difference that counts even where the values agree."""
    cause = attribute_cause(context, pair.src, pair.dst)
    return cause or (None if (pair.src, pair.dst) in loose else constant_cause(context, pair))


def _at(context: Context, pair: Pair, error: float, cause: Cause | None) -> Divergence:
    """Describe a divergence at a pair."""
    cause = cause or tensor_cause(context, pair) or unaligned_cause(context, pair.src, pair.dst)
    cause = cause or input_cause(context, pair) or Cause("")
    return Divergence(
        cause.src or place(context.src, pair.src),
        cause.dst or place(context.dst, pair.dst),
        error,
        cause.text,
        cause.remedy,
    )


def _behind(context: Context, error: float) -> Divergence | None:
    """Return the unaligned operation behind the last aligned ones, where all of these agree and the outputs do not."""
    ends = _ends(context)
    cause = unaligned_cause(context, *ends)
    if cause is None:
        return None
    return Divergence(cause.src or place(context.src, ends[0]), cause.dst or place(context.dst, ends[1]), error, cause.text)


def _returned(context: Context, error: float) -> Divergence:
    """Return the outputs themselves as the divergence."""
    ours, theirs = _ends(context)
    return Divergence(place(context.src, ours), place(context.dst, theirs), error, "what is returned")


def _ends(context: Context) -> tuple[str, str]:
    ours, theirs = (next(op.name for op in side.main.ops.ops() if op.kind == OUTPUT) for side in (context.src, context.dst))
    return ours, theirs


def _unshown(context: Context, error: float) -> Divergence | None:
    """Return a piecewise operation, or an input, that only one model has: equal values cannot show that it has no effect."""
    found = _unread_input(context, error)
    if found is not None:
        return found
    source, destination = context.both
    for one, other, name in ((destination, source, "source"), (source, destination, "destination")):
        ops = one.side.main.ops
        pieces = [name for name in varying_operations(one.side) if name in ops.pieces and not ops.pieces[name].analytic]
        shown = context.shown[one is destination]
        alone = next((name for name in pieces if name not in one.known and name not in shown), None)
        if alone is not None:
            where, after = place(one.side, alone), _after(one, other, alone)
            places = (after, where) if one is destination else (where, after)
            return Divergence(*places, error, f"{ops.op(alone).spelling} without a counterpart in the {name}")
    return None


def _unread_input(context: Context, error: float) -> Divergence | None:
    """Return an input that only one of the two models reads."""
    src, dst = context.src, context.dst
    for pair in context.plan.alignment.pairs:
        if src.main.ops.op(pair.src).kind == INPUT:
            read = [bool(side.main.ops.users(name)) for side, name in ((src, pair.src), (dst, pair.dst))]
            if read[0] != read[1]:
                text = f"an input that the {'source' if read[0] else 'destination'} alone reads"
                return Divergence(place(src, pair.src), place(dst, pair.dst), error, text)
    return None


def _after(one: AlignedSide, other: AlignedSide, name: str) -> str:
    """Name the operation of the other model that comes next after an operation that only this model has."""
    ops = one.side.main.ops
    found = [node for node in nx.descendants(ops.network, name) if node in one.known]
    order = {op.name: index for index, op in enumerate(ops.ops())}
    first = min(found, key=order.__getitem__, default=None)
    return "the output" if first is None else place(other.side, one.known[first])
