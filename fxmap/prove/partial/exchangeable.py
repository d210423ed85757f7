"""Exchangeable roles: operations that agree with the source, and would agree with another one of its operations as well.

Idea: layers that read one value and have one shape (k and v of an attention, the gates of a cell, every block's layers on
one context) give the values of any of their counterparts with its tensors. What tells them apart is what reads them, as far
as that has counterparts itself. So look for another place in the source for the part that agrees: move one operation to a
rival, and everything that reads it, and what that reads, along with it. Where an operation would have to read something
else than it does, the rival is refuted. Where the move ends at operations without a counterpart, nothing refutes it, and the
choice is open. Where it closes (both are summed), it is a symmetry, and either choice is right.

Cost: a walk for each rival; `_STEPS` bounds its length, and what was not refuted by then counts as open.

Source: partial embeddings of a graph, extended edge by edge, as in J. R. Ullmann, JACM 23 (1976) 31-42,
doi:10.1145/321921.321925.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fxmap.graph.opgraph import CONSTANT, INPUT, OUTPUT
from fxmap.prove.partial.agreement import Agreement, data_operands

# So many operations are moved for one rival, at most: attentions end after 10 or 20.
_STEPS = 400

# What an operation must become, and the operations that it may become.
Choices = list[tuple[str, list[str]]]


def exchangeable(agreement: Agreement, names: Iterable[str]) -> set[str]:
    """Return the operations of the destination that may have another counterpart, for all that the others show.

    Args:
        agreement: where the two models agree.
        names: the operations to ask about.
    """
    partners, found = agreement.context.partners, set[str]()
    for name in names:
        ours = partners[name]
        if name in found or not agreement.context.src.main.ops.tensors(ours):
            continue
        for rival in _rivals(agreement, ours):
            moved = _Moves(agreement).moved({ours: rival}, [(ours, rival)], touched=False)
            found |= {agreement.images[one] for one in moved or () if one in agreement.images}
    return found


def _rivals(agreement: Agreement, name: str) -> list[str]:
    """Return the other operations of the source that look the same and compute from the same layers."""
    src = agreement.context.src.main.ops
    roots = _roots(agreement, name)
    return [
        op.name
        for op in src.of_kind({src.op(name).kind})
        if op.name != name and _look(agreement, op.name) == _look(agreement, name) and _roots(agreement, op.name) == roots
    ]


def _roots(agreement: Agreement, name: str) -> set[str]:
    """Return the nearest operations with tensors, and the inputs, that an operation of the source computes from."""
    src, found, queue = agreement.context.src.main.ops, set[str](), [name]
    seen = set(queue)
    while queue:
        for producer, _ in data_operands(src, queue.pop()):
            if producer in seen:
                continue
            seen.add(producer)
            if src.tensors(producer) or src.op(producer).kind == INPUT:
                found.add(producer)
            else:
                queue.append(producer)
    return found


def _look(agreement: Agreement, name: str) -> tuple[object, ...]:
    src = agreement.context.src.main.ops
    op = src.op(name)
    shapes = {argument: tensor.shape for argument, tensor in src.tensors(name).items()}
    return op.kind, op.attributes, len(op.rows or ()), shapes


@dataclass
class _Moves:
    """Operations of the source that take another's place; `steps` counts those that were looked at."""

    agreement: Agreement
    steps: int = field(default=0)

    def moved(
        self, image: Mapping[str, str], waiting: Iterable[tuple[str, str]], *, touched: bool
    ) -> Mapping[str, str] | None:
        """Extend a move until it ends; return it if it is not refuted, and ends at operations without a counterpart.

        Args:
            image: the operations that are moved, each with the one whose place it takes.
            waiting: those whose neighbours have not been looked at.
            touched: whether an operation without a counterpart was met.
        """
        image, queue = dict(image), deque(waiting)
        while queue:
            self.steps += 1
            if self.steps > _STEPS:
                return image
            one, other = queue.popleft()
            if _look(self.agreement, one) != _look(self.agreement, other):
                return None
            operands, unknown = self._operands(one, other)
            readers, ends = self._readers(one, other)
            touched |= unknown or ends
            for name, choices in operands + readers:
                if name in image:
                    if image[name] not in choices:
                        return None
                elif len(choices) == 1:
                    image[name] = choices[0]
                    queue.append((name, choices[0]))
                else:
                    branches = ({**image, name: choice} for choice in choices)
                    rest = [*queue, (one, other)]
                    tried = (self.moved(branch, [(name, branch[name]), *rest], touched=touched) for branch in branches)
                    return next((found for found in tried if found is not None), None)
        return image if touched else None

    def _operands(self, one: str, other: str) -> tuple[Choices, bool]:
        """Return what the operands of an operation become; also whether one of them has no counterpart."""
        src = self.agreement.context.src.main.ops
        ours, theirs = data_operands(src, one), data_operands(src, other)
        found: Choices = []
        unknown = False
        for producer, argument in ours:
            if (producer, argument) in theirs or src.op(producer).kind == CONSTANT:
                continue
            if producer in self.agreement.images or src.op(producer).kind == INPUT:
                found.append((producer, [name for name, use in theirs if use == argument and (name, use) not in ours]))
            else:
                unknown = True
        return found, unknown

    def _readers(self, one: str, other: str) -> tuple[Choices, bool]:
        """Return what the readers of an operation become; also whether one of them has no counterpart."""
        found, ops = self.agreement, self.agreement.context.src.main.ops
        theirs = ops.users(other)
        choices: Choices = []
        ends = self._is_read_elsewhere(one)
        for user, argument in ops.users(one):
            if ops.op(user).kind == OUTPUT:
                if argument in found.arguments[0]:
                    choices.append((user, []))  # another value would be returned
                else:
                    ends = True
            elif not self._is_edge(one, user):
                ends = True
            elif (user, argument) not in theirs:
                look = _look(found, user)
                choices.append((user, [n for n, use in theirs if use == argument and _look(found, n) == look]))
        return choices, ends

    def _is_edge(self, one: str, user: str) -> bool:
        """Whether an edge of the source is one of the destination, too, between operations that agree."""
        images, dst = self.agreement.images, self.agreement.context.dst.main.ops
        if user not in images or one not in images:
            return False
        return any(name == images[user] for name, _ in dst.users(images[one]))

    def _is_read_elsewhere(self, one: str) -> bool:
        """Whether something in the destination reads an operation and has no counterpart."""
        found, ops = self.agreement, self.agreement.context.dst.main.ops
        if one not in found.images:
            return True
        standing = found.images.values()
        return any(
            argument not in found.arguments[1] if ops.op(user).kind == OUTPUT else user not in standing
            for user, argument in ops.users(found.images[one])
        )
