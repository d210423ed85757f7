"""A compact view of an operation graph: integers and lists, in topological order, for the inner loops of alignment."""

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any

from fxmap.graph.affine import affine_shape, pointwise
from fxmap.graph.kinds import Trait, facts, has
from fxmap.graph.opgraph import CONSTANT, OUTPUT, TENSOR, Op, OpGraph


@dataclass(frozen=True, slots=True)
class View:
    """Operations 0..n-1 of a graph, producers first.

    `operands[i]` are (argument, producer) and `users[i]` are (argument, consumer), without the tensors of the state dict,
    whose shapes are part of `shapes[i]`.
    """

    ops: list[Op]
    kinds: list[str]
    shapes: list[tuple[Any, ...]]
    operands: list[list[tuple[str, int]]]
    users: list[list[tuple[str, int]]]

    def __len__(self) -> int:
        return len(self.ops)

    def parametrised(self, index: int) -> bool:
        """Whether the operation reads a tensor of the state dict."""
        return bool(self.shapes[index])


def view(graph: OpGraph) -> View:
    """Make the compact view of a graph, in linear time."""
    ops = [op for op in graph.ops() if op.kind not in (TENSOR, CONSTANT)]
    number = {op.name: index for index, op in enumerate(ops)}
    operands: list[list[tuple[str, int]]] = []
    users: list[list[tuple[str, int]]] = [[] for _ in ops]
    shapes = []
    for index, op in enumerate(ops):
        producers = graph.operands(op.name)
        inputs = sorted(
            (argument, number[name]) for argument, names in producers.items() for name in names if name in number
        )
        operands.append(inputs)
        for argument, producer in inputs:
            users[producer].append((argument, index))
        shapes.append(_shapes(op, graph.tensors(op.name)))
    return View(ops, [_kind(op, graph.tensors(op.name)) for op in ops], shapes, operands, users)


def views(src: OpGraph, dst: OpGraph) -> tuple[View, View]:
    """Make the views of two graphs; the place of an output, its name or its number, counts if both models have it.

    >>> def returning(*places):
    ...     graph = OpGraph()
    ...     graph.add(Op("x", "input"))
    ...     graph.add(Op("end", OUTPUT))
    ...     for place in places:
    ...         _ = graph.network.add_edge("x", "end", argument=place)
    ...     return graph
    >>> [side.users[0] for side in views(returning(".mu", ".kl"), returning(".loss", ".mu"))]
    [[('', 1), ('.mu', 1)], [('', 1), ('.mu', 1)]]
    """
    both = view(src), view(dst)
    places = [
        {argument for i, kind in enumerate(side.kinds) if kind == OUTPUT for argument, _ in side.operands[i]}
        for side in both
    ]
    common = places[0] & places[1]
    ours, theirs = (
        side if found == common else _with_outputs(side, common) for side, found in zip(both, places, strict=True)
    )
    return ours, theirs


def _with_outputs(side: View, common: Container[str]) -> View:
    """Return a view whose outputs have a place only where it is a common one."""
    ends = {i for i, kind in enumerate(side.kinds) if kind == OUTPUT}

    def place(argument: str, consumer: int) -> str:
        return argument if consumer not in ends or argument in common else ""

    operands = [
        sorted((place(argument, i), producer) for argument, producer in found) for i, found in enumerate(side.operands)
    ]
    users = [sorted((place(argument, user), user) for argument, user in found) for found in side.users]
    return replace(side, operands=operands, users=users)


def _kind(op: Op, tensors: dict[str, Op]) -> str:
    if "weight" in tensors and pointwise(op, tensors["weight"]):
        return "linear"
    return facts(op.kind).exchanged or op.kind


def _shapes(op: Op, tensors: dict[str, Op]) -> tuple[Any, ...]:
    # Whether an affine layer has a bias or a norm differs between the forms of one network; its weight's shape does not.
    if has(op.kind, Trait.AFFINE) and "weight" in tensors:
        return (("weight", affine_shape(op, tensors["weight"])),)
    # Axes of size 1 only say how a tensor is broadcast: a layer scale of shape (c) is the same as one of (c, 1, 1).
    return tuple((name, tensors[name].extents) for name in sorted(tensors))
