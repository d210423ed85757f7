"""op(x, w1 * m) = op(x, w) with w = w1 * m, and op(x, w1 / (u . W1 v)) = op(x, w): pruned and spectrally normalised weights.

A weight that code computes from stored tensors by a product of two of them, or by its largest singular value, is one tensor.
Holds for every input. Only one direction gives weights: many masks and many tensors make one weight.
"""

from fxmap.expressions.base import Expression, Source
from fxmap.expressions.stored import SpectralNormed, Times
from fxmap.graph.arguments import bind
from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import TENSOR, Op, OpGraph
from fxmap.normalize.rule import Context, Outcome, Rule

_MOVES = Trait.VIEW | Trait.RESHAPE | Trait.PERMUTE | Trait.TRANSPOSE

_COPIES = frozenset({"clone", "contiguous", "detach", "alias"})

_KINDS = frozenset({"mul", "div"})


def count_stored_weights(context: Context) -> int:
    """Count the weights that are computed from stored tensors by a product or by a singular value."""
    return sum(not isinstance(_expression(context, op), str) for op in context.ops.of_kind(_KINDS))


def _merge(context: Context, op: Op) -> Outcome:
    """Put one computed tensor in the place of the operations that make a weight."""
    ops, made = context.ops, _expression(context, op)
    if isinstance(made, str):
        return made
    shape = _shape(context, op)
    ops.computed[op.name] = made
    whole = Op(f"%{op.name}", TENSOR, output=op.output, key=op.name, shape=shape)
    read = list(ops.network.predecessors(op.name))
    ops.add(whole)
    users = ops.substitute(op.name, whole.name)
    ops.weights.update((op.name, op.output))
    _drop(ops, read)
    return (whole.name, *users)


def _drop(ops: OpGraph, names: list[str]) -> None:
    """Remove operations that nothing reads any more, and those that only they read."""
    while names:
        name = names.pop()
        if name in ops.network and not ops.users(name):
            names += list(ops.network.predecessors(name))
            ops.network.remove_node(name)


def _expression(context: Context, op: Op) -> Expression | str:
    ops = context.ops
    if op.kind == "mul":
        factors = [ops.op(name) for name in ops.operands(op.name).get("input", [])]
        if len(factors) != 2 or any(part.kind != TENSOR for part in factors):
            return "it is no product of two stored tensors"
        if factors[0].shape != factors[1].shape or len(factors[0].shape or ()) < 2:
            return "the two stored tensors have other shapes"
        return Times(_source(factors[0]), _source(factors[1]))
    return _spectral(context, op)


def _spectral(context: Context, op: Op) -> Expression | str:
    """Return the expression of `w / dot(u, mv(matrix of w, v))`."""
    ops, no = context.ops, "it divides no stored tensor by its largest singular value"
    operands = ops.operands(op.name)
    (weight,), (sigma,) = operands.get("input", [""]), operands.get("other", [""])
    if not weight or not sigma or ops.op(weight).kind != TENSOR or ops.op(sigma).kind not in ("dot", "vdot"):
        return no
    vectors = [_whole(ops, part) for parts in ops.operands(sigma).values() for part in parts]
    images = [part for part in vectors if ops.op(part).kind == "mv"]
    us = [part for part in vectors if ops.op(part).kind == TENSOR]
    if len(images) != 1 or len(us) != 1:
        return no
    operands = ops.operands(images[0])
    (matrix,), (vector,) = operands.get("input", [""]), operands.get("vec", [""])
    v = _whole(ops, vector) if vector else ""
    if not matrix or not v or ops.op(v).kind != TENSOR:
        return no
    axis, name = 0, matrix
    while ops.op(name).kind != TENSOR:
        if not has(ops.op(name).kind, _MOVES) and ops.op(name).kind not in _COPIES:
            return no
        axis = _first_axis(context, name, axis)
        (name,) = ops.operands(name)["input"]
    if name != weight or axis < 0:
        return no
    return SpectralNormed(_source(ops.op(weight)), _source(ops.op(us[0])), _source(ops.op(v)), axis)


def _whole(ops: OpGraph, name: str) -> str:
    """Return the tensor or operation that a chain of copies ends in, going back."""
    while ops.op(name).kind in _COPIES:
        (name,) = ops.operands(name)["input"]
    return name


def _first_axis(context: Context, name: str, axis: int) -> int:
    """Return which axis before a movement is the first one behind it; -1 where that is not known."""
    kind = context.ops.op(name).kind
    if not has(kind, Trait.PERMUTE):
        return axis if not has(kind, Trait.TRANSPOSE) else -1
    dims = bind(context.nodes[name]).get("dims")
    return int(dims[axis]) if isinstance(dims, list | tuple) and axis == 0 else -1


def _shape(context: Context, op: Op) -> tuple[int, ...]:
    ops = context.ops
    return next(ops.op(part).shape or () for part in ops.operands(op.name)["input"])


def _source(op: Op) -> Source:
    assert op.key is not None
    return Source(op.key)


MERGE_STORED_WEIGHT = Rule("merge weights computed from stored tensors", _KINDS, _merge)
