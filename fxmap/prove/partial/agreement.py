"""Where two models agree: the operations whose values were equal, and those that differ by themselves, at equal places."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from fxmap.graph.kinds import Trait, has, kind_of
from fxmap.graph.opgraph import OUTPUT, TENSOR, OpGraph, weight_axes
from fxmap.mapping.proof import TOLERANCE
from fxmap.matching.align.alignment import Pair
from fxmap.prove.graphs.causes import attribute_cause, constant_cause
from fxmap.prove.graphs.context import AlignedSide, Context
from fxmap.prove.graphs.explained import NO_WEIGHTS_MAKE_UP
from fxmap.run.lockstep import Names


@dataclass(frozen=True, slots=True)
class Reader:
    """A use of an operation: the operation that reads it, as which argument, and whether unaligned ones stand between."""

    name: str
    argument: str
    direct: bool


@dataclass(frozen=True)
class Agreement:
    """The pairs of a proof, with what the runs showed of each.

    Attributes:
        context: the two models and their pairs.
        errors: the largest error of each pair over all runs.
        loose: the pairs whose values agree in another layout, or times a constant.
        outputs: the outputs that are equal, as (source, destination) by number.
        shapes: the shape of the value of each aligned operation of the source.
    """

    context: Context
    errors: Mapping[Names, float]
    loose: frozenset[Names]
    outputs: frozenset[tuple[int, int]]
    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def pairs(self) -> dict[str, Pair]:
        """The pairs that were compared, by the operation of the destination."""
        return {pair.dst: pair for pair in self.context.pairs}

    @cached_property
    def agreeing(self) -> frozenset[str]:
        """The operations of the destination that gave their counterparts' values, on their own or the source's inputs."""
        return frozenset(
            pair.dst for pair in self.context.pairs if self.errors.get((pair.src, pair.dst), float("inf")) <= TOLERANCE
        )

    @cached_property
    def images(self) -> dict[str, str]:
        """The destination's operation of each operation of the source that stands where its counterpart does."""
        ops = self.context.dst.main.ops
        differing = (
            name
            for name in self.pairs
            if any(self.differs_itself(one, name, argument) for one, argument in data_operands(ops, name))
        )
        return {self.pairs[name].src: name for name in (*differing, *self.agreeing)}

    @cached_property
    def arguments(self) -> tuple[frozenset[str], frozenset[str]]:
        """The arguments of the outputs of both graphs that are equal."""
        sides = self.context.src, self.context.dst
        places = [side.main.places for side in sides]
        found = [
            frozenset(places[side][pair[side]] for pair in self.outputs if pair[side] < len(places[side])) for side in (0, 1)
        ]
        return found[0], found[1]

    def readers(self, name: str) -> Iterator[Reader]:
        """Yield the nearest aligned readers of an operation of the destination, the output, and the unaligned ones."""
        ops, queue, seen = self.context.dst.main.ops, [(name, True)], {name}
        while queue:
            current, direct = queue.pop()
            for user, argument in ops.users(current):
                yield Reader(user, argument, direct)
                if user not in seen and user not in self.context.partners and ops.op(user).kind != OUTPUT:
                    seen.add(user)
                    queue.append((user, False))

    def differs_itself(self, name: str, user: str, argument: str) -> bool:
        """Whether a reader of an operation stands where its counterpart does, and differs by what it does with the value.

        Such as a replaced head, a layer with other weights or at one position alone, another activation: what it is given is
        the source's value, in the source's order of channels.
        """
        pair, partner = self.pairs.get(user), self.context.partners.get(name)
        if pair is None or partner is None or user in self.agreeing:
            return False
        src, dst = self.context.src.main.ops, self.context.dst.main.ops
        if (pair.src, argument) not in src.users(partner):
            return False
        kinds = src.op(pair.src).kind, dst.op(user).kind
        ours, theirs = steps(self.context.both[0], partner, pair.src), steps(self.context.both[1], name, user)
        if all(has(kind, Trait.AFFINE) for kind in kinds):
            kept = keeps_channels(ours) and keeps_channels(theirs) and self.reads_channels(name, user)
            in_order = kept and (partner, name) not in self.loose
            return in_order or ((kept or ours == theirs) and self._has_own_cause(pair))
        return (kinds[0] == kinds[1] or set(kinds) <= NO_WEIGHTS_MAKE_UP) and self._has_own_cause(pair)

    def _has_own_cause(self, pair: Pair) -> bool:
        """Whether a pair differs in a static attribute, a constant or a tensor."""
        if not all(self.context.same[pair].values()):
            return True
        return bool(attribute_cause(self.context, pair.src, pair.dst) or constant_cause(self.context, pair))

    def reads_channels(self, name: str, user: str) -> bool:
        """Whether an affine layer reads as many channels as an operation before it has."""
        ops = self.context.dst.main.ops
        weight, shape = ops.tensors(user).get("weight"), self.shapes.get(self.context.partners.get(name, ""), ())
        axes = weight_axes(ops.op(user), len(weight.shape or ())) if weight is not None else ()
        return weight is not None and bool(axes) and (weight.shape or ())[axes.index("i")] in shape

    def is_new(self, name: str, user: str) -> bool:
        """Whether a reader is an affine layer that the source lacks: the mapping makes none of its tensors."""
        dst = self.context.dst
        ops, mapping = dst.main.ops, self.context.mapping
        if not has(ops.op(user).kind, Trait.AFFINE):
            return False
        keys = [key for tensor in ops.tensors(user).values() for key in ops.stored(tensor)]
        is_new = bool(keys) and not any(dst.prefix + key in mapping for key in keys)
        return is_new and keeps_channels(steps(self.context.both[1], name, user)) and self.reads_channels(name, user)


def steps(one: AlignedSide, name: str, user: str) -> list[tuple[object, ...]]:
    """Return what moves data between an operation and one that reads it: kinds, and arguments that are no values."""
    end, start = one.side.main.ops.op(name).output, one.nodes.get(user.partition("#")[0])
    before: dict[fx.Node, bool] = {}

    def leads_back(node: fx.Node) -> bool:
        if node not in before:
            before[node] = False
            found = [
                leads_back(part) for part in node.all_input_nodes if has(kind_of(node), Trait.MOVEMENT | Trait.IDENTITY)
            ]
            before[node] = node.name == end or any(found)
        return before[node]

    between = []
    queue = list(start.all_input_nodes) if start is not None else []
    while queue:
        node = queue.pop()
        if leads_back(node) and node.name != end:
            between.append(_step(node))
            queue = [next(part for part in node.all_input_nodes if leads_back(part))]
    return between


def _step(node: fx.Node) -> tuple[object, ...]:
    arguments = tuple("_" if isinstance(part, fx.Node) else str(part) for part in node.args)
    return kind_of(node), arguments


def keeps_channels(between: list[tuple[object, ...]]) -> bool:
    """Whether steps that move data leave channels in order: where axes change places, none are merged before and behind.

    >>> keeps_channels([("permute", ()), ("flatten", (1,))]), keeps_channels([("view", ()), ("permute", ()), ("view", ())])
    (True, False)
    """
    merging, places = Trait.VIEW | Trait.RESHAPE | Trait.FLATTEN, ""
    for kind, _ in between:
        if kind in ("channel_shuffle", "flip", "roll"):
            return False
        merges = has(str(kind), merging)
        moves = not merges and not has(str(kind), Trait.PART | Trait.IDENTITY)
        places += "m" if merges else "p" if moves else ""
    return re.search("mp+m", places) is None


def data_operands(ops: OpGraph, name: str) -> list[tuple[str, str]]:
    """Return (producer, argument) of the operands of an operation that are no tensors of the state dict."""
    return [
        (producer, argument)
        for argument, producers in ops.operands(name).items()
        for producer in producers
        if ops.op(producer).kind != TENSOR
    ]
