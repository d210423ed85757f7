"""Readers: by which operations a value is read, through those that only move its elements."""

from collections import Counter
from functools import cache

from torch import fx

from fxmap.graph.kinds import Trait, has, kind_of

_MOVES = Trait.MOVEMENT | Trait.IDENTITY


def moves(node: fx.Node) -> bool:
    """Whether a node only moves the elements of one value."""
    return node.op == "call_function" and has(kind_of(node), _MOVES) and len(node.all_input_nodes) == 1


@cache
def readers(node: fx.Node) -> frozenset[tuple[str, int]]:
    """Return the kinds of the operations that read a value, and as which of their operands."""
    found: set[tuple[str, int]] = set()
    for user in node.users:
        if moves(user):
            found |= readers(user)
        elif user.op == "output":
            found.add(("output", user.all_input_nodes.index(node)))
        else:
            kind = kind_of(user)
            place = 0 if has(kind, Trait.COMMUTATIVE) else user.all_input_nodes.index(node)
            found.add((kind, place))
    return frozenset(found)


def reading(node: fx.Node) -> list[fx.Node]:
    """Return the operations that read a value, through those that only move its elements."""
    found: list[fx.Node] = []
    for user in node.users:
        found += reading(user) if moves(user) else [user]
    return found


# So many operations further on are asked what they are.
_FURTHER = 4


@cache
def _further(node: fx.Node) -> tuple[frozenset[str], ...]:
    """Return the kinds of the operations that read a value, of those that read these, and so on."""
    found, level = [], [node]
    for _ in range(_FURTHER):
        level = list(dict.fromkeys(user for one in level for user in reading(one)))
        found.append(frozenset(kind_of(user) for user in level))
    return tuple(found)


@cache
def _around(node: fx.Node) -> Counter[tuple[int, str]]:
    """Return the kinds of the operations around one: what makes what it reads, two steps back, and what reads it."""
    found = Counter((step, kind) for step, level in enumerate(_further(node), 1) for kind in level)
    level = [node]
    for step in (-1, -2):
        level = [_maker(part) for one in level for part in one.all_input_nodes]
        found.update((step, kind_of(one) if one.op == "call_function" else one.op) for one in level)
    return found


def _maker(node: fx.Node) -> fx.Node:
    """Return the operation that makes a value, behind those that only move its elements."""
    while moves(node):
        (node,) = node.all_input_nodes
    return node


def unlike_readers(one: fx.Node, other: fx.Node) -> float:
    """Return how unlike two operations are by what is around them: from 0 to 1."""
    ours, theirs = _around(one), _around(other)
    size = (ours | theirs).total()
    return 1.0 - (ours & theirs).total() / size if size else 0.0


def further_apart(one: fx.Node, other: fx.Node) -> float:
    """Return how unlike the operations are that read two values, some steps on: from 0 to 1."""
    ours, theirs = (Counter(kind for level in _further(node) for kind in level) for node in (one, other))
    size = (ours | theirs).total()
    return 1.0 - (ours & theirs).total() / size if size else 0.0
