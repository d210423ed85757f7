"""Pieces by their values: what two models' pieces break at, whatever operations they are spelled with.

Idea: a function that is made of pieces and does not jump is an analytic function of its operand u and of |u - b| for every
break b: relu(u) = (u + |u|) / 2, max(a, b) = (a + b + |a - b|) / 2. So models that differ in spelling alone break at the
same values: relu behind a join and relu before it, a + relu(b - a) and max(a, b). Roots, logarithms and powers are as their
operand is, the largest of a set as the set is: a norm is the root of its square, and -max(-x) is min(x). Where every piece
of one model has the values of pieces of the other, element by element, what is left of both models is analytic, and equal
at a random point.

A break says nothing unless values of a run lie on both sides of it.

Cost: one forward pass of each model, and sorting the operands of pieces.
"""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.graph import piecewise as p
from fxmap.graph.arguments import bind
from fxmap.graph.kinds import kind_of
from fxmap.graph.opgraph import Op
from fxmap.graph.piecewise import NotPiecewiseError
from fxmap.matching.sides import Side
from fxmap.model.inputs import Inputs
from fxmap.model.tensors import plain
from fxmap.normalize.rules.elementwise import computed
from fxmap.prove.graphs.aligned import varying_operations
from fxmap.prove.runs.weights import Weights
from fxmap.run.interpreter import ValueInterpreter

_CLOSE = 1e-9
_MOST = 4_000_000  # numbers of one operand
_TWO_SIDED = 2  # numbers on either side of a break

# Functions of u that are as u is: u, from the result or the operand.
_ROOTS = {"sqrt", "std", "hypot", "norm", "vector_norm", "linalg_vector_norm", "frobenius_norm", "cdist", "cdist_forward"}
_OF_TWO = {"maximum", "minimum", "absolute_difference"}
_OF_ONE = {"rsqrt": "root", **dict.fromkeys(("log", "log2", "log10", "log1p"), "log")}
_LARGEST = {"amax": 1.0, "max": 1.0, "argmax": 1.0, "amin": -1.0, "min": -1.0, "argmin": -1.0}
_ORDERED = {"sort", "argsort", "topk", "median", "kthvalue", "msort"}

# What tells where pieces break: kinds of numbers, with the numbers. Of a break it is what changes its sign there; of the
# largest of sets, these, one in each row.
Told = list[tuple[str, Tensor]]
Tensors = Mapping[str, Tensor]


def shown_by_values(
    sides: tuple[Side, Side], draws: Sequence[Weights], inputs: tuple[Inputs, Inputs]
) -> tuple[frozenset[str], frozenset[str]]:
    """Return the pieces of the source and of the destination that break at values of the other model's pieces alone.

    Args:
        sides: the two models.
        draws: weights of both, by path; the more there are, the more breaks are seen from both sides.
        inputs: those of both.
    """
    ours = _seen(sides[0], [draw.src for draw in draws], inputs[0])
    theirs = _seen(sides[1], [draw.dst for draw in draws], inputs[1])
    return _within(sides[0], ours, _all(theirs)), _within(sides[1], theirs, _all(ours))


def _all(seen: Mapping[str, list[Told]]) -> dict[str, Tensor]:
    """Return all numbers that tell where pieces break, sorted, by their kind."""
    found: dict[str, list[Tensor]] = {}
    for kind, values in (one for ways in seen.values() for told in ways for one in told):
        found.setdefault(kind, []).append(values)
    return {kind: torch.cat(parts).sort().values for kind, parts in found.items()}


def _within(side: Side, own: Mapping[str, list[Told]], other: Mapping[str, Tensor]) -> frozenset[str]:
    ops, found = side.main.ops, set[str]()
    for name, ways in own.items():
        if any(all(kind in other and _is_part(values, other[kind]) for kind, values in told) for told in ways):
            found.add(name)
    # The largest of two, of which another takes the largest, is told with that.
    for name in reversed([name for name in own if name not in found and ops.op(name).kind in _OF_TWO]):
        if {ops.op(user).kind for user, _ in ops.users(name)} == {ops.op(name).kind}:
            found |= {name} if all(user in found for user, _ in ops.users(name)) else set()
    return frozenset(found)


def _is_part(values: Tensor, known: Tensor) -> bool:
    """Whether all numbers are among others, which are sorted."""
    if not len(values):
        return True
    place = torch.searchsorted(known, values)
    near = torch.stack([known[place.clamp(max=len(known) - 1)], known[(place - 1).clamp(min=0)]])
    return bool(((near - values).abs().amin(0) <= _CLOSE * max(1.0, float(values.abs().max()))).all())


def _seen(side: Side, draws: Sequence[Tensors], inputs: Inputs) -> dict[str, list[Told]]:
    """Run a model, and return what its pieces break at, in each way that it can be told; of some it is not known."""
    main, ops = side.main, side.main.ops
    pieces = [name for name in varying_operations(side) if name in ops.pieces and not ops.pieces[name].analytic]
    needed = {ops.op(name).output for name in pieces} | {node for name in pieces for _, node in ops.pieces[name].operands}
    nodes, told = {node.name: node for node in main.graph.nodes}, dict[str, list[Told | None]]()
    for tensors in draws:
        values = _values(side, tensors, inputs, needed)
        for name in pieces:
            op, read = ops.op(name), [values.get(node) for _, node in ops.pieces[name].operands]
            whole = op.output in values and None not in read and op.output in nodes
            operands = [value for value in read if value is not None]
            one = _Piece(op, _maker(nodes[op.output]), operands, values[op.output]).told(values) if whole else None
            told.setdefault(name, []).append(one)
    return {name: ways for name, parts in told.items() if (ways := _ways(parts))}


def _maker(node: fx.Node) -> fx.Node:
    """Return the node that computes what a node may take as one of several results."""
    return node.all_input_nodes[0] if kind_of(node) == "getitem" and len(node.all_input_nodes) == 1 else node


def _values(side: Side, tensors: Tensors, inputs: Inputs, needed: Container[str]) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}

    def hook(node: fx.Node, value: Any) -> Any:
        first = value[0] if isinstance(value, tuple) and value else value
        if node.name in needed and isinstance(first, Tensor) and first.numel() <= _MOST:
            values[node.name] = plain(first.detach().clone())
        return value

    with torch.no_grad():
        ValueInterpreter(side.main, tensors, hook).run(*side.main.arguments(inputs.double()))
    return values


def _ways(parts: Sequence[Told | None]) -> list[Told]:
    """Return in which ways it can be told where a piece breaks, from what several runs saw."""
    runs = [part for part in parts if part is not None]
    if len(runs) < len(parts) or not runs:
        return []
    joined = [(kind, torch.cat([run[i][1] for run in runs])) for i, (kind, _) in enumerate(runs[0])]
    if [kind for kind, _ in joined] == ["largest"]:
        rows = joined[0][1]
        two = rows[:, 0] - rows[:, 1] if rows.shape[1] == 2 and bool(torch.isfinite(rows).all()) else None
        varied = bool(rows.argmax(1).bincount().count_nonzero() > 1)
        ways = [[("largest", _of_set(rows))]] if varied else []
        return ways if two is None or not _both_sides(two) else [*ways, [("break", two.abs())]]
    if not all(kind != "break" or _both_sides(values) for kind, values in joined):
        return []
    return [[(kind, values.abs() if kind == "break" else values) for kind, values in joined]]


def _both_sides(u: Tensor) -> bool:
    """Whether numbers lie on both sides of 0."""
    return min(int((u > 0).sum()), int((u < 0).sum())) >= _TWO_SIDED


def _of_set(rows: Tensor) -> Tensor:
    """Return one number for each set, whatever the order of its elements."""
    finite = torch.isfinite(rows)
    return torch.where(finite, torch.sin(1.7 * rows + 0.3) + 0.37 * rows, torch.zeros_like(rows)).sum(1)


@dataclass(frozen=True)
class _Piece:
    """A piece in one run: its operation, its node, what it read, and its result."""

    op: Op
    node: fx.Node
    read: Sequence[Tensor]
    result: Tensor

    def told(self, values: Tensors) -> Told | None:
        """Return what tells where it breaks; None where that is not known."""
        kind, read = self.op.kind, self.read
        if kind in _ROOTS or (kind == "abs" and read[0].is_complex()):
            return [("root", self.result.double().square().flatten())] if _is_of_squares(self.op) else None
        if not read or not all(value.is_floating_point() for value in read):
            return None
        if kind in _OF_TWO:
            return self._of_two(values)
        if kind in _LARGEST and len(read) == 1:
            rows = _rows(read[0], self.node)
            # Of axes that were joined, the node names the last ones alone.
            own = rows is not None and torch.equal(_result(rows, kind), self.result.flatten())
            return self._largest(rows if own else None, _LARGEST[kind])
        if kind in _ORDERED and len(read) == 1:
            rows = _rows(read[0], self.node, -1)
            return None if rows is None else [("ordered", _either_sign(rows))]
        if kind == "max_pool" and len(read) == 1:
            return self._largest(_windows(read[0], self.result, self.node), 1.0)
        if len(read) != 1 + (kind == "prelu"):
            return None
        x = read[0].flatten()
        made = _OF_ONE.get(kind)
        return _of_one_number(self.op, x) if made is None else [(made, 1 + x if kind == "log1p" else x)]

    def _of_two(self, values: Tensors) -> Told | None:
        """Return the values of which it is the largest or the smallest, also where one of them is that of others."""
        if len(self.read) != 2:
            return None
        if self.op.kind == "absolute_difference":
            return [("break", (self.read[0] - self.read[1]).flatten())]
        parts = [part for node in self.node.all_input_nodes for part in _parts(node, self.node, values)]
        parts = parts if parts and torch.equal(_largest_of(parts, self.op.kind), self.result) else [*self.read]
        rows = torch.stack([part.flatten() for part in torch.broadcast_tensors(*parts)], 1)  # type: ignore[no-untyped-call]
        return [("largest", rows if self.op.kind == "maximum" else -rows)]

    @staticmethod
    def _largest(rows: Tensor | None, sign: float) -> Told | None:
        return None if rows is None else [("largest", sign * rows)]


def _parts(node: fx.Node, like: fx.Node, values: Tensors) -> list[Tensor]:
    """Return the values of which a value is the largest, where that is what makes it."""
    if node.op == like.op and node.target == like.target:
        return [part for before in node.all_input_nodes for part in _parts(before, like, values)]
    return [values[node.name]] if node.name in values else []


def _largest_of(parts: Sequence[Tensor], kind: str) -> Tensor:
    return reduce(torch.maximum if kind == "maximum" else torch.minimum, parts)


def _is_of_squares(op: Op) -> bool:
    return {value for _, value in op.attributes if not isinstance(value, bool)} <= {2, "fro", 0, 1, None}


def _of_one_number(op: Op, x: Tensor) -> Told | None:
    """Return the breaks of a function of one number that does not jump."""
    given = {"input": p.line(1.0, 0.0)} | ({"weight": p.line(0.0, 0.3)} if op.kind == "prelu" else {})
    try:
        shape = op.attribute("pieces") if op.kind == "piecewise" else computed(op, given).shape
    except (NotPiecewiseError, KeyError):
        return None
    return [("break", x - place) for place in shape.breaks] if shape.breaks and not shape.jumps else None


def _rows(x: Tensor, node: fx.Node, default: int | None = None) -> Tensor | None:
    """Return the sets along the axes of an operation, one in each row; `default` is the axis where it names none."""
    given = bind(node)
    dims = given.get("dim", given.get("dims", given.get("axis", default)))
    dims = [dims] if isinstance(dims, int) else list(range(x.dim())) if dims in (None, [], ()) else dims
    if not isinstance(dims, list | tuple) or not all(isinstance(dim, int) for dim in dims):
        return None
    dims = sorted(dim % x.dim() for dim in dims) if x.dim() else []
    rest = [dim for dim in range(x.dim()) if dim not in dims]
    return x.permute(*rest, *dims).reshape(math.prod(x.shape[dim] for dim in rest), -1)


def _result(rows: Tensor, kind: str) -> Tensor:
    """Return the largest or the smallest of each set, or its place."""
    if kind.startswith("arg"):
        return rows.argmax(1) if kind == "argmax" else rows.argmin(1)
    return rows.amax(1) if "max" in kind else rows.amin(1)


def _either_sign(rows: Tensor) -> Tensor:
    """Return one number for each set, the same for the set of the negatives: they are in the opposite order."""
    return (torch.sin(1.7 * rows) + 0.37 * rows).sum(1).square() + torch.cos(2.3 * rows).sum(1)


def _windows(x: Tensor, result: Tensor, node: fx.Node) -> Tensor | None:
    """Return the windows of a max pool, one in each row, with -inf beside the map."""
    given, n = bind(node), result.dim()
    rank = len(size) if isinstance(size := given.get("kernel_size"), list | tuple) and len(size) > 1 else x.dim() - 2
    if rank < 1 or given.get("ceil_mode") or x.dim() != rank + 2 or n != x.dim():
        return None

    def each(name: str, default: Any) -> list[int]:
        value = given.get(name, default)
        value = [value] if isinstance(value, int) else list(value or default)
        return [*value * rank][:rank]

    sizes = each("kernel_size", 1)
    stride, padding, dilation = each("stride", sizes), each("padding", 0), each("dilation", 1)
    if any(one != 1 for one in dilation):
        return None
    wide = torch.nn.functional.pad(x, [pad for i in reversed(range(rank)) for pad in (padding[i],) * 2], value=-math.inf)
    for i in range(rank):
        wide = wide.unfold(2 + i, sizes[i], stride[i])
    rows = wide.reshape(-1, math.prod(sizes))
    return rows if len(rows) == result.numel() and torch.equal(rows.amax(1), result.flatten()) else None
