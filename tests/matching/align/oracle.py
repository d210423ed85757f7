"""An exhaustive matcher of small operation graphs: the oracle that alignment is compared with.

It tries every injective partial matching of operations of one kind with tensors of the same shapes, and keeps the largest
number of preserved edges: edges of the source whose two ends are matched with the ends of an edge of the destination at the
same argument. That is the maximum common edge subgraph, which is NP-hard; so graphs have seven operations at most.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fxmap.graph.opgraph import CONSTANT, INPUT, OUTPUT, TENSOR, Op, OpGraph

LARGEST = 7

# How many operands each kind of operation of a random graph has; those of `add` commute, those of `sub` do not.
KINDS = {"relu": 1, "tanh": 1, "linear": 1, "add": 2, "sub": 2}
ARGUMENTS = {"add": ("input", "input"), "sub": ("input", "other")}

Edge = tuple[str, str, str]


@dataclass(frozen=True)
class Recipe:
    """A graph as data: for every operation its kind, and which values it reads: 0 is the input, n that of operation n."""

    operations: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def sinks(self) -> list[int]:
        """The values that no operation reads: the network returns them."""
        read = {value for _, values in self.operations for value in values}
        return [number for number in range(len(self.operations) + 1) if number not in read]


def build(recipe: Recipe, rng: random.Random) -> OpGraph:
    """Make the graph of a recipe, with names and an order of nodes and edges that are drawn at random."""
    names = [f"n{number}" for number in rng.sample(range(100), len(recipe.operations) + 2)]
    ops, edges = [Op(names[0], INPUT), Op(names[-1], OUTPUT)], list[Edge]()
    for number, (kind, values) in enumerate(recipe.operations, start=1):
        ops.append(Op(names[number], kind))
        edges += [
            (names[value], names[number], argument)
            for value, argument in zip(values, ARGUMENTS.get(kind, ("input",)), strict=True)
        ]
        if kind == "linear":
            weight = f"%{names[number]}.weight"
            ops.append(Op(weight, TENSOR, key=weight[1:], shape=(4, 4)))
            edges.append((weight, names[number], "weight"))
    edges += [(names[value], names[-1], str(place)) for place, value in enumerate(recipe.sinks)]
    rng.shuffle(ops)
    rng.shuffle(edges)
    graph = OpGraph()
    for op in ops:
        graph.add(op)
    for producer, consumer, argument in edges:
        graph.network.add_edge(producer, consumer, argument=argument)
    return graph


def without(recipe: Recipe, number: int) -> Recipe:
    """Take an operation out: what read its value reads its first operand instead."""
    first = recipe.operations[number - 1][1][0]

    def renumbered(value: int) -> int:
        value = first if value == number else value
        return value - (value > number)

    rest = [operation for place, operation in enumerate(recipe.operations, start=1) if place != number]
    return Recipe(tuple((kind, tuple(map(renumbered, values))) for kind, values in rest))


def preserved(src: OpGraph, dst: OpGraph, pairs: Mapping[str, str]) -> int:
    """Count the edges of the source that a matching, by name, carries onto edges of the destination."""
    same = {s: d for s, d in pairs.items() if _look(src, s) == _look(dst, d)}
    ours = Counter((same[p], same[c], argument) for p, c, argument in _edges(src) if p in same and c in same)
    return (ours & Counter(_edges(dst))).total()


def most_preserved(src: OpGraph, dst: OpGraph) -> int:
    """Return how many edges the best of all matchings preserves."""
    ours, theirs = _operations(src), _operations(dst)
    assert len(ours) <= LARGEST
    assert len(theirs) <= LARGEST
    choices = {s: [d for d in theirs if _look(src, s) == _look(dst, d)] for s in ours}
    before = _edges_by_last_end(src, ours)
    target = Counter(_edges(dst))
    return _best(ours, choices, before, target, {})


def _best(
    rest: Sequence[str],
    choices: Mapping[str, Sequence[str]],
    before: Mapping[str, Sequence[Edge]],
    target: Counter[Edge],
    matched: dict[str, str],
) -> int:
    """Return the most edges among those whose ends are matched when the `rest` is matched in every way."""
    if not rest:
        return 0
    first, *others = rest
    bound = sum(len(before[name]) for name in rest)
    found = _best(others, choices, before, target, matched)
    taken = set(matched.values())
    for choice in choices[first]:
        if found == bound:
            break  # no edge is lost: no other choice does better
        if choice not in taken:
            now = {**matched, first: choice}
            carried = Counter((now[p], now[c], a) for p, c, a in before[first] if p in now and c in now)
            found = max(found, (carried & target).total() + _best(others, choices, before, target, now))
    return found


def _edges_by_last_end(graph: OpGraph, order: Sequence[str]) -> dict[str, list[Edge]]:
    """Return the edges by that of their ends which comes last in the order."""
    place = {name: number for number, name in enumerate(order)}
    found: dict[str, list[Edge]] = {name: [] for name in order}
    for edge in _edges(graph):
        found[max(edge[:2], key=place.__getitem__)].append(edge)
    return found


def _operations(graph: OpGraph) -> list[str]:
    return [op.name for op in graph.ops() if op.kind not in (TENSOR, CONSTANT)]


def _edges(graph: OpGraph) -> list[Edge]:
    known = set(_operations(graph))
    return [edge for edge in graph.network.edges(data="argument") if edge[0] in known]


def _look(graph: OpGraph, name: str) -> tuple[object, ...]:
    return graph.op(name).kind, {argument: tensor.shape for argument, tensor in graph.tensors(name).items()}
