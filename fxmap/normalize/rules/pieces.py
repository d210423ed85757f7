"""Functions of one number that are made of pieces have one spelling, whatever they are composed of.

    relu(x) = where(x > 0, x, 0) = x (x > 0) = (x + |x|) / 2        leaky_relu(x, a) = relu(x) - a relu(-x)
    |x| = relu(x) + relu(-x)        relu6(x) = 6 - relu(6 - relu(x))        celu(x, 1) = elu(x)

Hold for every input: `graph/piecewise.py` computes where a composition breaks and what it is in between, exactly. One with a
name of its own gets its name; any other is the kind "piecewise", whose attribute holds its breaks and pieces.
"""

import math
from dataclasses import replace

import networkx as nx

from fxmap.graph import piecewise as p
from fxmap.graph.opgraph import Op, OpGraph
from fxmap.graph.piecewise import NotPiecewiseError, Piecewise, Shape
from fxmap.normalize.rule import Context, Outcome, Rule
from fxmap.normalize.rules.clamping import spelled
from fxmap.normalize.rules.elementwise import COMPARISONS, PIECES, computed, leaves, value_of

_ENDS = PIECES | {"add", "sub", "rsub", "mul", "div", "neg", "square", "pow"}


def _name(context: Context, op: Op) -> Outcome:
    """Write a composition of elementwise operations that has pieces as one operation."""
    found = None if op.kind in COMPARISONS else leaves(context, op.name)
    if found is None:
        return "it is a condition, or long"
    edges, tensors = found
    slope = tensors[0] if len(tensors) == 1 else None
    for start in _starts(op.name, edges) if len(tensors) < 2 else ():
        inside = _between(edges, op.name, start)
        pieces = sum(context.ops.op(name).kind in PIECES for name in inside)
        if not pieces or (pieces > 1 and op.kind in PIECES and not _is_joined(context.ops, inside, start)):
            continue  # one behind the other, as a model has two activations, each stays with its module
        reads = slope is not None and any(user in inside for user, _ in context.ops.users(slope))
        try:
            value = value_of(context, op.name, start, slope if reads else None)
            made = _named(op, value, slope=reads) or (None if reads else _whole(context.ops, op, inside, start, value))
        except NotPiecewiseError:
            continue
        if made is not None and (len(inside) > 1 or (made.kind, made.attributes) != (op.kind, op.attributes)):
            return _written(context.ops, made, start, slope if reads else None, inside)
    return "it is written so, or no function of one number with known breaks"


def _starts(end: str, edges: dict[str, list[str]]) -> list[str]:
    """Return the values that everything between them and an operation is computed of, the farthest first."""
    network: nx.DiGraph[str] = nx.DiGraph()
    network.add_node(end)
    for name, producers in edges.items():
        network.add_edges_from((name, producer) for producer in producers or [""])
    if "" not in network:
        return []
    immediate, found = nx.immediate_dominators(network, end), list[str]()
    name = immediate[""]
    while name not in (end, ""):
        found.append(name)
        name = immediate[name]
    return found


def _between(edges: dict[str, list[str]], end: str, start: str) -> set[str]:
    found, waiting = set[str](), [end]
    while waiting:
        name = waiting.pop()
        if name != start and name not in found:
            found.add(name)
            waiting += edges[name]
    return found


def _whole(ops: OpGraph, op: Op, inside: set[str], start: str, value: Piecewise) -> Op | None:
    """Return a composition without a name as one operation; None if it is a piece alone with arithmetic."""
    if any(user not in inside for name in inside - {op.name} for user, _ in ops.users(name)):
        return None  # what lies in between is read by others
    if (
        not _is_joined(ops, inside, start)
        and sum(ops.op(name).kind in PIECES for name in inside) < 2
        and op.kind not in _NAMELESS
    ):
        return None
    shape = value.shape
    if not shape.breaks:
        return replace(op, kind="composed", attributes=(), written=op.spelling)
    return replace(op, kind="piecewise", attributes=(("pieces", shape),), written=op.spelling)


def _is_joined(ops: OpGraph, inside: set[str], start: str) -> bool:
    """Whether a composition has several paths."""
    return any(sum(user in inside for user, _ in ops.users(name)) > 1 for name in (*inside, start))


# Kinds whose values are compared by their pieces alone: others may be composed of these.
_NAMELESS = frozenset({"celu", "softshrink", "hardshrink", "softsign", "threshold", "square", "pow"})


def _named(op: Op, value: Piecewise, *, slope: bool) -> Op | None:
    """Return an operation with a name of its own that a function is; None where it has none."""
    shape = value.shape
    if slope:
        return replace(op, kind="prelu", attributes=(), written=op.spelling) if shape == _PRELU.shape else None
    for kind, reference in _FIXED.items():
        if shape == reference.shape:
            return replace(op, kind=kind, attributes=(), written=op.spelling)
    for candidate in (_bounds, _leaky, _elu):
        made = candidate(op, shape)
        if made is not None and computed(made, {"input": p.line(1.0, 0.0)}).shape == shape:
            return made
    return None


_X = {"input": p.line(1.0, 0.0)}


_PRELU = computed(Op("", "prelu"), _X | {"weight": p.SLOPE})


_FIXED = {kind: computed(Op("", kind), _X) for kind in ("abs", "hardsigmoid", "hardswish", "selu", "sign")}


# A point below 0 among those that tell functions apart, and its place.
_LEFT = (-0.7319, 1)


def _bounds(op: Op, shape: Shape) -> Op | None:
    """Return the bounds that a function may be: those of its ends which are flat."""
    if not 1 <= len(shape.breaks) <= 2:
        return None
    flat = [len(set(piece)) == 1 for piece in (shape.pieces[0], shape.pieces[-1])]
    lower, upper = (shape.there[0] if flat[0] else None), (shape.there[-1] if flat[1] else None)
    return None if lower is upper is None else spelled(op, (lower, upper))


def _leaky(op: Op, shape: Shape) -> Op | None:
    point, place = _LEFT
    value = shape.pieces[0][place]
    slope = 0.0 if value is None else p.rounded(value / point)
    return _with(op, "leaky_relu", "negative_slope", slope, 0.01) if shape.breaks == (0.0,) else None


def _elu(op: Op, shape: Shape) -> Op | None:
    point, place = _LEFT
    value = shape.pieces[0][place]
    alpha = 0.0 if value is None else p.rounded(value / math.expm1(point))
    return _with(op, "elu", "alpha", alpha, 1.0) if shape.breaks == (0.0,) else None


def _with(op: Op, kind: str, name: str, number: float, default: float) -> Op:
    return replace(op, kind=kind, attributes=() if number == default else ((name, number),), written=op.spelling)


def _written(ops: OpGraph, made: Op, start: str, slope: str | None, inside: set[str]) -> tuple[str, ...]:
    """Have an operation compute from one value, and drop the parts that nothing else reads."""
    before = list(ops.network.predecessors(made.name))
    ops.network.remove_edges_from(list(ops.network.in_edges(made.name, keys=True)))
    ops.network.add_edge(start, made.name, argument="input")
    if slope is not None:
        ops.network.add_edge(slope, made.name, argument="weight")
    ops.add(made)
    ops.drop_unread([name for name in before if name not in (start, slope)])
    return (made.name, start)


NAME_PIECES = Rule("functions of one number by their pieces", _ENDS, _name, backwards=True)
