"""Readers: whether the operations that read one operation correspond to those that read its counterpart.

Idea: operations with equal inputs (q, k and v of an attention) give equal values with one another's weights, so values alone
cannot tell which is which. Who reads them, and as which argument, does: the operation that k's counterpart feeds must be the
counterpart of the one that k feeds.

Cost: linear in the edges of the graph, but for chains of operations that each have one reader.
"""

from collections.abc import Iterable, Set

from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import OUTPUT, TENSOR
from fxmap.mapping.proof import TOLERANCE
from fxmap.matching.align.alignment import Pair
from fxmap.matching.align.symmetry import rivals
from fxmap.prove.graphs.causes import own_cause
from fxmap.prove.graphs.context import Context
from fxmap.run.lockstep import Names


def refuted_by_readers(context: Context, loose: Set[Names], wrong: Set[Pair], error: float) -> set[Pair]:
    """Return the loosely equal pairs that are refuted by the operations behind them.

    Equal numbers in another layout, or times a constant, and rows that were put into an order are evidence as far as the
    next aligned operations agree: if one of those differs, and nothing about itself says why, its input was wrong.

    Args:
        context: the pairs.
        loose: the pairs that agree loosely.
        wrong: those that differ for other reasons.
        error: of the outputs, which stand behind the last operations.
    """
    found: set[Pair] = set()
    by_name = {pair.dst: pair for pair in context.pairs}
    for pair in reversed(context.pairs):
        if (pair.src, pair.dst) not in loose or pair in wrong:
            continue
        for name in _next_aligned(context, pair.dst):
            after = by_name.get(name)
            if after is None:
                differs = not error <= TOLERANCE
            else:
                differs = after in found or (after in wrong and own_cause(context, after) is None)
            if differs:
                found.add(pair)
    return found


def _next_aligned(context: Context, name: str) -> set[str]:
    """Return the nearest aligned operations, the output included, behind an operation of the destination."""
    ops, found, queue, seen = context.dst.main.ops, set(), [name], {name}
    while queue:
        for user, _ in ops.users(queue.pop()):
            if user in context.partners:
                found.add(user)
            elif user not in seen:
                seen.add(user)
                queue.append(user)
    return found


def compared_outputs(context: Context, returned: Iterable[tuple[int, int]]) -> frozenset[str]:
    """Return the arguments of the destination's output that the source returns too."""
    places = context.dst.main.places
    return frozenset(places[number] for _, number in returned if number < len(places))


class Readers:
    """Whether the readers of a pair correspond, and distinguish it from every other possible counterpart.

    Where a value passes from one operation to the next alone, as from a norm's scale to its shift, the last one's readers
    tell. If they tell nothing, there must be nothing in the source that the operation could be as well: the norm behind the
    last layer of a shorter stack computes from the same value as the first norm of the next layer.
    """

    def __init__(self, context: Context, compared: Set[str]) -> None:
        self.context, self.compared = context, compared
        # What the readers of an operation say, by its name: of a chain, each is asked by all before it.
        self._said: dict[str, str | bool] = {}

    def agree(self, pair: Pair) -> bool:
        """Whether they do, for a pair."""
        name, said = pair.dst, self._says(pair.dst)
        while isinstance(said, str) and said:
            name, said = said, self._says(said)
        return said is True or ((said == "" or name != pair.dst) and not has_unaligned_rival(self.context, pair.src))

    def _says(self, name: str) -> str | bool:
        if name not in self._said:
            self._said[name] = self._ask(name)
        return self._said[name]

    def _ask(self, name: str) -> str | bool:
        """Return whether the readers of an operation tell; or the one that it is passed to alone; or "" if there is none."""
        partners, users = self.context.partners, self.context.dst.main.ops.users(name)
        if not _same_readers(self.context, partners[name], name, self.compared):
            return False
        if any(user in partners for user, _ in users) and (len(users) > 1 or not _passes_on(self.context, users[0][0])):
            return True
        return "" if not users or users[0][0] not in partners else users[0][0]


def _same_readers(context: Context, ours: str, theirs: str, compared: Set[str]) -> bool:
    src, dst = context.src.main.ops, context.dst.main.ops
    for user, argument in dst.users(theirs):
        if dst.op(user).kind == OUTPUT and compared and argument not in compared:
            continue  # an output that the source does not return tells nothing
        if user in context.partners:
            # Which of several outputs is which, their values say.
            readers = [(name, "" if src.op(name).kind == OUTPUT else use) for name, use in src.users(ours)]
            if (context.partners[user], "" if dst.op(user).kind == OUTPUT else argument) not in readers:
                return False
        elif rivals(dst, theirs):
            return False
    return True


def _passes_on(context: Context, name: str) -> bool:
    """Whether an operation of the destination computes from one value, channel by channel."""
    ops = context.dst.main.ops
    data = [producer for names in ops.operands(name).values() for producer in names if ops.op(producer).kind != TENSOR]
    return len(data) == 1 and not has(ops.op(name).kind, Trait.AFFINE) and ops.op(name).kind != OUTPUT


def has_unaligned_rival(context: Context, name: str) -> bool:
    """Whether the source has an unaligned operation of the same kind and tensor shapes as the given one."""
    ops = context.src.main.ops
    shapes = {argument: tensor.shape for argument, tensor in ops.tensors(name).items()}
    return any(
        op.kind == ops.op(name).kind
        and op.name not in context.images
        and {argument: tensor.shape for argument, tensor in ops.tensors(op.name).items()} == shapes
        for op in (ops.ops() if shapes else ())
    )
