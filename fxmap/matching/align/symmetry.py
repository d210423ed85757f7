"""Symmetry: find operations of one graph that may be exchanged without changing the function.

Idea: an automorphism of the graph that exchanges two operations also exchanges the operands and the readers that they do not
share. Follow both, edge by edge, until the two walks meet in operations that they share (`exchange`). If they do, either
choice gives the same function whatever the values are: a tie. If the walks diverge, the graph has no such symmetry.
Operations with equal inputs that were told apart by assignment alone are exchanged in a run: they are tied if the outputs
stay the same, and not tied otherwise (`ties`).

>>> from fxmap.graph.opgraph import Op
>>> graph = OpGraph()
>>> for name, kind in (("x", "input"), ("left", "relu"), ("right", "relu"), ("sum", "add")):
...     graph.add(Op(name, kind))
>>> for edge in (("x", "left"), ("x", "right"), ("left", "sum"), ("right", "sum")):
...     _ = graph.network.add_edge(*edge, argument="input")
>>> sorted(ties(graph, [Pair("a", "left", Evidence.TIED), Pair("b", "right", Evidence.TIED)], None)[0])
['left', 'right']

Cost: `exchange` is linear in the edges of the moved nodes; `ties` calls it for each pair of open operations of one kind and
shapes, and runs the model at most a few times for each (`_TRIED`). The general problem, the automorphism group of a graph,
is B. D. McKay, A. Piperno, J. Symbolic Computation 60 (2014) 94-112, doi:10.1016/j.jsc.2013.09.003; only exchanges of two
branches are needed here, and are found without backtracking.
"""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from fxmap.graph.opgraph import TENSOR, OpGraph
from fxmap.matching.align.alignment import Evidence, Pair
from fxmap.run.deferred import numbers

# Up to this number of alternatives of one operation are tried in a run.
_TRIED = 4

# Evidence that does not exclude that another operation fits as well.
_OPEN = (Evidence.TIED, Evidence.ASSIGNED, Evidence.VALUES)


def ties(graph: OpGraph, pairs: Iterable[Pair], agrees: Callable[[dict[str, str]], bool] | None) -> tuple[set[str], int]:
    """Return the operations of the destination that may be exchanged with another, and the number of exchanges in runs.

    Args:
        graph: the destination.
        pairs: the aligned pairs; only those with evidence of a choice or of values are considered (see `_OPEN`).
        agrees: runs the destination with its tensors exchanged, by path, and returns whether the outputs stay the same;
            None if they are wrong anyway.
    """
    evidence = {pair.dst: pair.evidence for pair in pairs if pair.evidence in _OPEN}
    shapes = {name: _shapes(graph, name) for name in evidence}
    tied: set[str] = set()
    tried = 0
    for name, why in evidence.items():
        if name in tied:
            continue
        near = rivals(graph, name)
        alike = [
            other
            for other in evidence
            if other != name and shapes[other] == shapes[name] and (why != Evidence.VALUES or other in near)
        ]
        image = next((found for other in alike if (found := exchange(graph, name, other))), None)
        if image is not None:
            moved = exchanged(graph, image)
            runnable = agrees is not None and all(map(graph.is_stored, moved))
            tried += runnable
            # Structure ignores data movement: rows and columns of a feature map look alike, but are not.
            if not runnable or agrees is None or agrees(moved):
                tied |= image.keys()
            continue
        if why == Evidence.VALUES:
            continue  # the run told them apart
        if not all(graph.is_stored(str(tensor.key)) for tensor in graph.tensors(name).values()):
            continue
        for other in [other for other in near if other in alike][:_TRIED] if agrees else []:
            tried += 1
            tensors = graph.tensors(name), graph.tensors(other)
            moved = {str(a.key): str(tensors[1][argument].key) for argument, a in tensors[0].items()}
            if agrees is not None and agrees(moved | {b: a for a, b in moved.items()}):
                tied |= {name, other}
    return tied, tried


def exchanged_values(graph: OpGraph, one: str, other: str, values: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the tensors of two layers of one kind and shape with their values exchanged, also if both are rows of one.

    None if they are no such layers, or read operands that code computes from stored tensors.
    """
    read = graph.tensors(one), graph.tensors(other)
    keys = {str(tensor.key) for tensors in read for tensor in tensors.values()}
    if _shapes(graph, one) != _shapes(graph, other) or not all(map(graph.is_stored, keys)):
        return None
    changed = {key: numbers(values[key]).clone() for key in keys}
    parts = graph.op(one), graph.op(other)
    if len(parts[0].rows or ()) != len(parts[1].rows or ()):
        return None
    for argument, tensor in read[0].items():
        ours, theirs = str(tensor.key), str(read[1][argument].key)
        places = []
        for op, key in zip(parts, (ours, theirs), strict=True):
            last = argument == "weight" and op.attribute("axes") == "i o"
            places.append((changed[key].t() if last else changed[key], list(op.rows or range(len(changed[key])))))
        (mine, rows), (its, others) = places
        if max(rows, default=0) >= len(mine) or max(others, default=0) >= len(its):
            return None  # rows of the result that are no rows of this operand
        before = mine[rows].clone()
        mine[rows] = its[others]
        its[others] = before
    return changed


def exchanged(graph: OpGraph, image: dict[str, str]) -> dict[str, str]:
    """Map the key of every tensor that an exchange of operations moves to the key of the tensor that takes its place."""
    return {str(graph.op(a).key): str(graph.op(b).key) for a, b in image.items() if graph.op(a).kind == TENSOR}


def rivals(graph: OpGraph, name: str) -> list[str]:
    """Return the other operations of the same kind that read a value in common and tensors of the same shapes."""
    data = [
        producer
        for producers in graph.operands(name).values()
        for producer in producers
        if graph.op(producer).kind != TENSOR
    ]
    users = dict.fromkeys(user for producer in data for user, _ in graph.users(producer))
    return [user for user in users if user != name and _shapes(graph, user) == _shapes(graph, name)]


def _shapes(graph: OpGraph, name: str) -> tuple[object, ...]:
    return graph.op(name).kind, {argument: tensor.shape for argument, tensor in graph.tensors(name).items()}


def exchange(graph: OpGraph, one: str, other: str) -> dict[str, str] | None:
    """Return an automorphism of the graph that exchanges two operations, or None if none was found.

    It maps each moved node to its image, and back; other nodes stay. Nodes of the two branches alternate: one, its image,
    and so on. Linear in the number of edges of the moved nodes.

    Of several neighbours that look alike, the first is taken, so None does not prove that there is no automorphism.

    >>> from fxmap.graph.opgraph import Op
    >>> graph = OpGraph()
    >>> for name, kind in (("x", "input"), ("a", "relu"), ("b", "relu"), ("sum", "add"), ("minus", "sub")):
    ...     graph.add(Op(name, kind))
    >>> for edge in (("x", "a"), ("x", "b"), ("a", "sum"), ("b", "sum")):
    ...     _ = graph.network.add_edge(*edge, argument="input")
    >>> exchange(graph, "a", "b")
    {'a': 'b', 'b': 'a'}
    >>> _ = graph.network.add_edge("a", "minus", argument="input"), graph.network.add_edge("b", "minus", argument="other")
    >>> exchange(graph, "a", "b") is None
    True
    """
    image = {one: other, other: one}
    queue = [(one, other)]
    while queue:
        a, b = queue.pop()
        if _look(graph, a) != _look(graph, b):
            return None
        for mine, theirs in ((_operands(graph, a), _operands(graph, b)), (graph.users(a), graph.users(b))):
            pairs = _pairs(graph, mine, theirs)
            if pairs is None:
                return None
            for x, y in pairs:
                if image.get(x, y) != y or image.get(y, x) != x:
                    return None
                if x not in image:
                    image[x], image[y] = y, x
                    queue.append((x, y))
    return image


def _operands(graph: OpGraph, name: str) -> list[tuple[str, str]]:
    return [(producer, argument) for argument, producers in graph.operands(name).items() for producer in producers]


def _look(graph: OpGraph, name: str) -> tuple[object, ...]:
    op = graph.op(name)
    return op.kind, op.attributes, op.shape, len(op.rows or ())


def _pairs(graph: OpGraph, mine: list[tuple[str, str]], theirs: list[tuple[str, str]]) -> list[tuple[str, str]] | None:
    """Pair the neighbours that are not shared, each with one that looks alike at the same argument; None if impossible."""
    rest, others = list(mine), list(theirs)
    for edge in mine:
        if edge in others:
            rest.remove(edge)
            others.remove(edge)
    pairs = []
    for node, argument in rest:
        found = [edge for edge in others if edge[1] == argument and _look(graph, edge[0]) == _look(graph, node)]
        if not found:
            return None
        others.remove(found[0])
        pairs.append((node, found[0][0]))
    return None if others else pairs
