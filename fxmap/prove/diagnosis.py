"""Divergence: which aligned operations are the same, and where two models part first.

Values decide as far as inputs reach. Operations that are analytic in their inputs and tensors and agree at a random point
agree everywhere, with probability one (`analytic.py`); operations that are made of pieces (ReLU6, max pooling, clamping)
agree only on the pieces that were reached, so they count as the same by kind and attributes alone, and one without a
counterpart stands against a proof whatever the values say.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import networkx as nx
import numpy as np
from torch import Tensor

from fxmap.graph.affine import AFFINE, affine_shape, pointwise
from fxmap.graph.analytic import ANALYTIC
from fxmap.graph.build import module_of
from fxmap.graph.kinds import SCALING, kind_of
from fxmap.graph.opgraph import INPUT, OUTPUT, TENSOR, Op
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import TOLERANCE, Divergence
from fxmap.matching.align.alignment import Pair
from fxmap.matching.align.signatures import own_attributes
from fxmap.matching.align.symmetry import rivals
from fxmap.matching.plan import Plan
from fxmap.matching.sides import Side
from fxmap.prove.aligned import aligned, unaligned_before, varying_operations
from fxmap.prove.equality import same_tensors


@dataclass(frozen=True, slots=True)
class _Cause:
    """Why a pair differs: in words, with the places if they are not those of the pair itself."""

    text: str
    remedy: str = ""
    src: str = ""
    dst: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The first divergence, and the operations of the destination that are the same as their source.

    Those that are `unclear` agree with their source as well, but what reads them does not tell which of several they are.
    """

    divergence: Divergence | None
    sound: frozenset[str]
    unclear: tuple[str, ...] = ()


class Diagnosis:
    """Judges every aligned pair by the errors that runs showed, its static attributes, its tensors and its consumers."""

    def __init__(self, mapping: KeyMapping, plan: Plan, source: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        self.mapping, self.plan = mapping, plan
        self.src, self.dst = plan.src, plan.dst
        self.values = source, tensors
        self.order = {node.name: index for index, node in enumerate(self.dst.main.graph.nodes)}
        self.pairs = aligned(plan)
        self.partners = {pair.dst: pair.src for pair in plan.alignment.pairs}
        self.images = {pair.src: pair.dst for pair in plan.alignment.pairs}
        self._chains = _Chain(self.src, self.images), _Chain(self.dst, self.partners)
        self.compared: set[str] = set()

    def judge(
        self,
        errors: Mapping[tuple[str, str], float],
        loose: Iterable[tuple[str, str]],
        error: float,
        returned: Iterable[tuple[int, int]] = (),
    ) -> Verdict:
        """Find the first divergence, in the order in which the destination computes.

        Args:
            errors: the largest error of each pair over all runs.
            loose: pairs whose values agree in another layout, or times a constant.
            error: of the outputs.
            returned: which output of the source is which of the destination.
        """
        # What a recorded run returns is flat: its arguments are numbered as the outputs are.
        self.compared = {f".{place}" for _, place in returned} if self.dst.main.recorded else set()
        sizes = {pair: errors.get((pair.src, pair.dst), float("inf")) for pair in self.pairs}
        loose = set(loose)
        causes = {
            pair: self._attribute(pair.src, pair.dst) or (None if (pair.src, pair.dst) in loose else self._constant(pair))
            for pair in self.pairs
        }
        wrong = {pair for pair in self.pairs if not sizes[pair] <= TOLERANCE or causes[pair]}
        # Which row of a part is which, what reads the part shows.
        refuted = self._refuted(loose | {(pair.src, pair.dst) for pair in self.pairs if self._is_part(pair)}, wrong, error)
        # A part that holds the source's numbers is not where the two differ, but what reads it.
        read_wrong = {pair for pair in refuted if self._is_part(pair) and all(self._same(pair).values())}
        wrong |= refuted
        first = next((pair for pair in self.pairs if pair in wrong - read_wrong), None) or next(
            (pair for pair in self.pairs if pair in wrong), None
        )
        sound = {pair.dst for pair in self.pairs if pair not in wrong}
        divergence = None
        if first is not None:
            divergence = self._explained(first, sizes[first], causes[first])
        elif not error <= TOLERANCE:
            divergence = self._behind(error) or self._unshown(error) or self._returned(error)
        else:
            divergence = self._unshown(error)
        consistent = frozenset(p.dst for p in self.pairs if p.dst in sound and self._consistent(p))
        unclear = [p for p in self.pairs if p.dst in sound - consistent and not self._rival_without_counterpart(p.src)]
        return Verdict(divergence, consistent, tuple(pair.dst for pair in unclear))

    def _refuted(self, loose: set[tuple[str, str]], wrong: set[Pair], error: float) -> set[Pair]:
        """Return the loosely equal pairs that what is computed from them speaks against.

        Equal numbers in another layout, or times a constant, and rows that were put into an order are evidence as far as
        the next aligned operations agree: if one of those differs, and nothing about itself says why, its input was wrong.
        """
        found: set[Pair] = set()
        by_name = {pair.dst: pair for pair in self.pairs}
        for pair in reversed(self.pairs):
            if (pair.src, pair.dst) not in loose or pair in wrong:
                continue
            for name in self._next(pair.dst):
                after = by_name.get(name)
                if after is None:
                    differs = not error <= TOLERANCE
                else:
                    differs = after in found or (after in wrong and self._own_cause(after) is None)
                if differs:
                    found.add(pair)
        return found

    def _is_part(self, pair: Pair) -> bool:
        return any("#" in name for name in (pair.src, pair.dst))

    def _next(self, name: str) -> set[str]:
        """Return the nearest aligned operations behind one, or the output."""
        ops, found, queue, seen = self.dst.main.ops, set(), [name], {name}
        while queue:
            for user, _ in ops.users(queue.pop()):
                if user in self.partners:
                    found.add(user)
                elif user not in seen:
                    seen.add(user)
                    queue.append(user)
        return found

    def _explained(self, pair: Pair, error: float, cause: _Cause | None) -> Divergence:
        cause = cause or self._tensor(pair) or self._strangers_before(pair.src, pair.dst) or _Cause("")
        return Divergence(
            cause.src or self._place(self.src, pair.src),
            cause.dst or self._place(self.dst, pair.dst),
            error,
            cause.text,
            cause.remedy,
        )

    def _behind(self, error: float) -> Divergence | None:
        """All aligned operations agree and the outputs do not: return what stands behind the last of them."""
        ends = self._ends()
        cause = self._strangers_before(*ends)
        if cause is None:
            return None
        return Divergence(
            cause.src or self._place(self.src, ends[0]), cause.dst or self._place(self.dst, ends[1]), error, cause.text
        )

    def _returned(self, error: float) -> Divergence:
        ours, theirs = (self._place(side, end) for side, end in zip((self.src, self.dst), self._ends(), strict=True))
        return Divergence(ours, theirs, error, "what is returned")

    def _ends(self) -> tuple[str, str]:
        ours, theirs = (next(op.name for op in side.main.ops.ops() if op.kind == OUTPUT) for side in (self.src, self.dst))
        return ours, theirs

    def _unshown(self, error: float) -> Divergence | None:
        """Return an operation made of pieces, or an input, that one model has alone: values do not show what it does."""
        for pair in self.plan.alignment.pairs:
            if self.src.main.ops.op(pair.src).kind == INPUT:
                read = [bool(side.main.ops.users(name)) for side, name in ((self.src, pair.src), (self.dst, pair.dst))]
                if read[0] != read[1]:
                    text = f"an input that the {'source' if read[0] else 'destination'} alone reads"
                    return Divergence(self._place(self.src, pair.src), self._place(self.dst, pair.dst), error, text)
        for side, known in ((self.dst, self.partners), (self.src, self.images)):
            alone = [
                name
                for name in varying_operations(side)
                if name not in known and side.main.ops.op(name).kind not in ANALYTIC
            ]
            if alone:
                kind, where = side.main.ops.op(alone[0]).kind, self._place(side, alone[0])
                other = "source" if side is self.dst else "destination"
                after = self._after(side, alone[0], known)
                places = (after, where) if side is self.dst else (where, after)
                return Divergence(*places, error, f"{kind} without a counterpart in the {other}")
        return None

    def _after(self, side: Side, name: str, known: Mapping[str, str]) -> str:
        """Name the operation of the other model that stands behind where an operation of this one has no counterpart."""
        other = self.src if side is self.dst else self.dst
        found = [node for node in nx.descendants(side.main.ops.network, name) if node in known]
        order = {op.name: index for index, op in enumerate(side.main.ops.ops())}
        first = min(found, key=order.__getitem__, default=None)
        return "the output" if first is None else self._place(other, known[first])

    def _strangers_before(self, src: str, dst: str) -> _Cause | None:
        """Say which operations without a counterpart stand before a pair whose inputs should agree."""
        ours, theirs = unaligned_before(self.src, src, self.images), unaligned_before(self.dst, dst, self.partners)
        kinds = {self.src.main.ops.op(name).kind for name in ours}, {self.dst.main.ops.op(name).kind for name in theirs}
        surplus = (
            [name for name in ours if self.src.main.ops.op(name).kind not in kinds[1]] or ours,
            [name for name in theirs if self.dst.main.ops.op(name).kind not in kinds[0]] or theirs,
        )
        if surplus[0] and surplus[1]:
            pair = self._attribute(surplus[0][0], surplus[1][0])
            places = self._place(self.src, surplus[0][0]), self._place(self.dst, surplus[1][0])
            return _Cause(pair.text if pair else "", "", *places)
        if surplus[1]:
            op = self.dst.main.ops.op(surplus[1][0])
            return _Cause(f"{op.kind} without a counterpart in the source", dst=self._place(self.dst, op.name))
        if surplus[0]:
            op = self.src.main.ops.op(surplus[0][0])
            return _Cause(f"{op.kind} without a counterpart in the destination", src=self._place(self.src, op.name))
        return None

    def _own_cause(self, pair: Pair) -> _Cause | None:
        return self._attribute(pair.src, pair.dst) or self._tensor(pair)

    def _attribute(self, ours: str, theirs: str) -> _Cause | None:
        """Say which static attribute of two operations differs, and what can be done about it."""
        src, dst = self.src.main.ops.op(ours), self.dst.main.ops.op(theirs)
        weights = self.src.main.ops.tensors(ours).get("weight"), self.dst.main.ops.tensors(theirs).get("weight")
        if weights[0] and weights[1] and src.kind in AFFINE and dst.kind in AFFINE:
            shapes = affine_shape(src, weights[0]), affine_shape(dst, weights[1])
            if shapes[0] != shapes[1]:
                return _Cause(f"weight {list(shapes[1])} against {list(shapes[0])}")
            linear = [op.kind == "linear" or pointwise(op, weight) for op, weight in ((src, weights[0]), (dst, weights[1]))]
            if all(linear):
                return self._eps(src, dst)
        attributes = dict(own_attributes(src)), dict(own_attributes(dst))
        if src.kind != dst.kind and not (src.kind in AFFINE and dst.kind in AFFINE):
            return _Cause(f"{dst.kind} against {src.kind}")
        for name in sorted(attributes[0].keys() | attributes[1].keys()):
            if attributes[0].get(name) != attributes[1].get(name):
                return _Cause(f"{name} {attributes[1].get(name, 'default')} against {attributes[0].get(name, 'default')}")
        return self._eps(src, dst) if src.kind == dst.kind else _Cause(f"{dst.kind} against {src.kind}")

    def _constant(self, pair: Pair) -> _Cause | None:
        """Say which number differs that the two models scale or shift by on the way to a pair: the eps of a norm by hand.

        Where the same steps lead to both, in other numbers, the function is another one, however small the error is.
        """
        ours, theirs = self._chains[0].constants(pair.src), self._chains[1].constants(pair.dst)
        if [kind for kind, _, _ in ours] != [kind for kind, _, _ in theirs]:
            return None
        for (kind, one, place), (_, other, where) in zip(ours, theirs, strict=True):
            if np.float32(one) != np.float32(other):  # some kernels keep their eps in single precision
                return _Cause(f"{kind} {other} against {one}", "", f"{place} ({kind})", f"{where} ({kind})")
        return None

    def _eps(self, src: Op, dst: Op) -> _Cause | None:
        eps = src.attribute("norm.eps"), dst.attribute("norm.eps")
        if None in eps or eps[0] == eps[1] or self._absorbed(dst.name):
            return None
        remedy = "It can be absorbed in the running variance: pass absorb_eps=True"
        keys = [side.main.ops.tensors(op.name)["norm.running_var"].key for side, op in ((self.src, src), (self.dst, dst))]
        places = [
            f"{side.prefix}{str(key).rpartition('.')[0]} (batch_norm)"
            for side, key in zip((self.src, self.dst), keys, strict=True)
        ]
        return _Cause(f"eps {eps[1]} against {eps[0]}", remedy, *places)

    def _absorbed(self, name: str) -> bool:
        ops, absorbed = self.dst.main.ops, self.plan.derivation.absorbed
        return any(key in absorbed for tensor in ops.tensors(name).values() for key in ops.stored(tensor))

    def _tensor(self, pair: Pair) -> _Cause | None:
        """Say which tensor of a pair is not the source's."""
        argument = next((name for name, same in sorted(self._same(pair).items()) if not same), None)
        ours, theirs = self.src.main.ops.tensors(pair.src), self.dst.main.ops.tensors(pair.dst)
        if argument is None or not ours:
            return None
        name, counterpart = self.dst.prefix + self.dst.main.ops.stored(theirs[argument])[0], ours.get(argument)
        made = self.mapping.get(name)
        what = "the destination's own value" if made is None else str(made)
        kinds = ["batch_norm" if argument.startswith("norm.") else op.main.ops.op(n).kind for op, n in self._sides(pair)]
        where = f"{name.rpartition('.')[0]} ({kinds[1]})"
        if counterpart is None:
            return _Cause(f"{name} is {what}: not what the source computes with", dst=where)
        other = self.src.prefix + self.src.main.ops.stored(counterpart)[0]
        text = f"{name} is not what the source computes with" if what == other else f"{name} is {what}, which is not {other}"
        return _Cause(text, "", f"{other.rpartition('.')[0]} ({kinds[0]})", where)

    def _sides(self, pair: Pair) -> tuple[tuple[Side, str], tuple[Side, str]]:
        return (self.src, pair.src), (self.dst, pair.dst)

    def _same(self, pair: Pair) -> dict[str, bool]:
        """Tell for every tensor of the destination's operation whether the source's reads the same numbers."""
        read = [
            {argument: side.main.ops.value(tensor, values) for argument, tensor in side.main.ops.tensors(name).items()}
            for (side, name), values in zip(self._sides(pair), self.values, strict=True)
        ]
        return same_tensors(self.src.main.ops.op(pair.src), read[0], self.dst.main.ops.op(pair.dst), read[1])

    def made(self) -> set[str]:
        """Return the tensors of the destination that are not, in every use, the source's numbers.

        What these do is known by values alone, and only as far as inputs reach them.
        """
        return {
            key
            for pair in self.pairs
            for argument, same in self._same(pair).items()
            if not same
            for key in self.dst.main.ops.stored(self.dst.main.ops.tensors(pair.dst)[argument])
        }

    def _consistent(self, pair: Pair) -> bool:
        """Whether what reads the one operation corresponds to what reads the other.

        Operations with equal inputs (q, k and v) give equal values with one another's weights: what tells them apart is
        who reads them, and as which argument. Where a value passes from one operation to the next alone, as from a norm's
        scale to its shift, the last one's readers tell. If they tell nothing, there must be nothing in the source that the
        operation could be as well: the norm behind the last layer of a shorter stack computes from what the first norm of
        the next layer computes from.
        """
        dst, name = self.dst.main.ops, pair.dst
        while self._same_readers(self.partners[name], name):
            users = dst.users(name)
            if any(user in self.partners for user, _ in users) and (len(users) > 1 or not self._passes_on(users[0][0])):
                return True
            if not users or users[0][0] not in self.partners:
                return not self._rival_without_counterpart(pair.src)
            name = users[0][0]
        return name != pair.dst and not self._rival_without_counterpart(pair.src)

    def _same_readers(self, ours: str, theirs: str) -> bool:
        src, dst = self.src.main.ops, self.dst.main.ops
        for user, argument in dst.users(theirs):
            if dst.op(user).kind == OUTPUT and self.compared and argument not in self.compared:
                continue  # an output that the source does not return tells nothing
            if user in self.partners:
                # Which of several outputs is which, their values say.
                readers = [(name, "" if src.op(name).kind == OUTPUT else use) for name, use in src.users(ours)]
                if (self.partners[user], "" if dst.op(user).kind == OUTPUT else argument) not in readers:
                    return False
            elif rivals(dst, theirs):
                return False
        return True

    def _passes_on(self, name: str) -> bool:
        """Whether an operation of the destination computes from one value, channel by channel."""
        ops = self.dst.main.ops
        data = [producer for names in ops.operands(name).values() for producer in names if ops.op(producer).kind != TENSOR]
        return len(data) == 1 and ops.op(name).kind not in {*AFFINE, OUTPUT}

    def _rival_without_counterpart(self, name: str) -> bool:
        """Whether the source has an operation that looks like one of its own, and to which nothing corresponds."""
        ops = self.src.main.ops
        shapes = {argument: tensor.shape for argument, tensor in ops.tensors(name).items()}
        return any(
            op.kind == ops.op(name).kind
            and op.name not in self.images
            and {argument: tensor.shape for argument, tensor in ops.tensors(op.name).items()} == shapes
            for op in (ops.ops() if shapes else ())
        )

    @staticmethod
    def _place(side: Side, name: str) -> str:
        op = side.main.ops.op(name)
        return f"{side.prefix}{op.module or op.name} ({op.kind})"


class _Chain:
    """What leads to an aligned operation from the aligned ones before it, in the fx graph, where nothing was left out."""

    def __init__(self, side: Side, known: Iterable[str]) -> None:
        self.prefix = side.prefix
        self.nodes = {node.name: node for node in side.main.graph.nodes}
        self.ends = {side.main.ops.op(name).output for name in known}

    def constants(self, name: str) -> list[tuple[str, float, str]]:
        """Return (kind, number, module) of every scaling or shifting by a number."""
        start = self.nodes.get(name.partition("#")[0])
        queue, seen = [] if start is None else list(start.all_input_nodes), set[str]()
        found = []
        while queue:
            node = queue.pop()
            if node.name in seen or node.name in self.ends or node.op not in ("call_function", "call_method"):
                continue
            seen.add(node.name)
            queue += node.all_input_nodes
            numbers = [part for part in node.args if isinstance(part, int | float) and not isinstance(part, bool)]
            if kind_of(node) in SCALING and len(node.all_input_nodes) == 1 and numbers:
                found.append((kind_of(node), float(numbers[0]), f"{self.prefix}{module_of(node) or node.name}"))
        return sorted(found)
