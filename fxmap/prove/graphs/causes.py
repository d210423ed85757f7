"""Causes: the attribute, constant, tensor or operation in which a pair of aligned operations differs.

Each function looks for one kind of cause, and returns None where there is none of it. All of them are static: they read
the graphs and the tensors, but no values of runs.

Cost: linear in the operations between a pair and the aligned ones before it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import fx

from fxmap.graph.affine import affine_shape, pointwise
from fxmap.graph.build import module_of
from fxmap.graph.kinds import Trait, has, kind_of
from fxmap.graph.opgraph import INPUT, TENSOR, Op
from fxmap.matching.align.alignment import Pair
from fxmap.matching.align.signatures import own_attributes
from fxmap.prove.graphs.aligned import unaligned_before
from fxmap.prove.graphs.context import AlignedSide, Context, place
from fxmap.run.lockstep import Names


@dataclass(frozen=True, slots=True)
class Cause:
    """The reason why a pair of operations differs, in words, with the places where these are not the pair's own."""

    text: str
    remedy: str = ""
    src: str = ""
    dst: str = ""


def own_cause(context: Context, pair: Pair) -> Cause | None:
    """Return the attribute or tensor in which a pair of operations differs, whatever their inputs are."""
    return attribute_cause(context, pair.src, pair.dst) or tensor_cause(context, pair)


def attribute_cause(context: Context, ours: str, theirs: str) -> Cause | None:
    """Return the static attribute in which two operations differ, with a remedy if there is one."""
    src, dst = context.src.main.ops.op(ours), context.dst.main.ops.op(theirs)
    weights = context.src.main.ops.tensors(ours).get("weight"), context.dst.main.ops.tensors(theirs).get("weight")
    if weights[0] and weights[1] and has(src.kind, Trait.AFFINE) and has(dst.kind, Trait.AFFINE):
        shapes = affine_shape(src, weights[0]), affine_shape(dst, weights[1])
        if shapes[0] != shapes[1]:
            return Cause(f"weight {list(shapes[1])} against {list(shapes[0])}")
        linear = [op.kind == "linear" or pointwise(op, weight) for op, weight in ((src, weights[0]), (dst, weights[1]))]
        if all(linear):
            return _eps(context, src, dst)
    attributes = dict(own_attributes(src)), dict(own_attributes(dst))
    if src.kind != dst.kind and not (has(src.kind, Trait.AFFINE) and has(dst.kind, Trait.AFFINE)):
        return Cause(f"{dst.spelling} against {src.spelling}")
    for name in sorted(attributes[0].keys() | attributes[1].keys()):
        if name == "eps" and _is_absorbed(context, dst.name):
            continue
        if attributes[0].get(name) != attributes[1].get(name):
            return Cause(f"{name} {attributes[1].get(name, 'default')} against {attributes[0].get(name, 'default')}")
    return _eps(context, src, dst) if src.kind == dst.kind else Cause(f"{dst.spelling} against {src.spelling}")


def _eps(context: Context, src: Op, dst: Op) -> Cause | None:
    """Return the difference in eps of the norms behind two layers, unless the mapping absorbs it."""
    eps = src.attribute("norm.eps"), dst.attribute("norm.eps")
    if None in eps or eps[0] == eps[1] or _is_absorbed(context, dst.name):
        return None
    remedy = "It can be absorbed in the running variance: pass absorb_eps=True"
    both = (context.src, src), (context.dst, dst)
    keys = [side.main.ops.tensors(op.name)["norm.running_var"].key for side, op in both]
    places = [
        f"{side.prefix}{str(key).rpartition('.')[0]} (batch_norm)"
        for side, key in zip((context.src, context.dst), keys, strict=True)
    ]
    return Cause(f"eps {eps[1]} against {eps[0]}", remedy, *places)


def _is_absorbed(context: Context, name: str) -> bool:
    ops, absorbed = context.dst.main.ops, context.plan.derivation.absorbed
    return any(key in absorbed for tensor in ops.tensors(name).values() for key in ops.stored(tensor))


def constant_cause(context: Context, pair: Pair) -> Cause | None:
    """Return the constant factor or summand before a pair in which the models differ, such as eps of a hand-written norm.

    Where the same steps with different numbers lead to both operations, the functions differ, however small the error is.
    """
    ours, theirs = _constants(context.both[0], pair.src), _constants(context.both[1], pair.dst)
    if [kind for kind, _, _ in ours] != [kind for kind, _, _ in theirs]:
        return None
    for (kind, one, here), (_, other, there) in zip(ours, theirs, strict=True):
        if _is_seen(kind, one, other):
            continue  # what is computed another way has other numbers
        if np.float32(one) != np.float32(other):  # some kernels keep their eps in single precision
            return Cause(f"{kind} {other} against {one}", "", f"{here} ({kind})", f"{there} ({kind})")
    return None


def _is_seen(kind: str, one: float, other: float) -> bool:
    """Whether values would show that two summands differ: not too small, and not so large that functions saturate."""
    return has(kind, Trait.SUM) and max(abs(one), abs(other)) <= 10 and abs(one - other) >= 1e-3


def operand_cause(pair: Pair, operands: Mapping[Names, str]) -> Cause | None:
    """Return the operand in which two piecewise operations differ: equal results cover only some of their pieces."""
    argument = operands.get((pair.src, pair.dst))
    return None if argument is None else Cause(f"what it reads as {argument or 'input'} is another value")


def _constants(one: AlignedSide, name: str) -> list[tuple[str, float, str]]:
    """Return (kind, number, module) of every scaling or shift between an operation and the aligned ones before it."""
    numbers = [(node, _number(node)) for node in _between(one, name)]
    return sorted(
        (kind_of(node), number, f"{one.side.prefix}{module_of(node) or node.name}")
        for node, number in numbers
        if number is not None
    )


def _between(one: AlignedSide, name: str) -> Iterator[fx.Node]:
    """Yield the calls between an operation and the aligned ones before it, in the fx graph, where nothing was left out."""
    start = one.nodes.get(name.partition("#")[0])
    queue, seen = [] if start is None else list(start.all_input_nodes), set[str]()
    while queue:
        node = queue.pop()
        if node.name in seen or node.name in one.aligned_nodes or node.op not in ("call_function", "call_method"):
            continue
        seen.add(node.name)
        queue += node.all_input_nodes
        yield node


def _number(node: fx.Node) -> float | None:
    """Return the constant by which an fx node scales or shifts its only operand; None for other nodes."""
    if not has(kind_of(node), Trait.SCALING) or len(node.all_input_nodes) != 1:
        return None
    numbers = [part for part in node.args if isinstance(part, int | float) and not isinstance(part, bool)]
    return float(numbers[0]) if numbers else None


def input_cause(context: Context, pair: Pair) -> Cause | None:
    """Return the difference in the steps between the model's input and two operations with the same tensors.

    Such as a normalisation of images that one model makes itself. Steps that are no operations of their own (slices, scales
    by constants) are looked for in the fx graph.
    """
    for side, name in ((context.src, pair.src), (context.dst, pair.dst)):
        ops = side.main.ops
        kinds = {ops.op(producer).kind for names in ops.operands(name).values() for producer in names}
        if not kinds <= {INPUT, TENSOR} or INPUT not in kinds:
            return None
    sides = zip(context.both, (pair.src, pair.dst), strict=True)
    ours, theirs = (sorted(map(kind_of, _between(one, name))) for one, name in sides)
    if ours == theirs or not all(context.same[pair].values()):
        return None
    words = [", ".join(dict.fromkeys(steps)) or "nothing" for steps in (ours, theirs)]
    return Cause(f"the input goes through {words[1]} before, against {words[0]}")


def tensor_cause(context: Context, pair: Pair) -> Cause | None:
    """Return the tensor of a pair that does not hold the source's numbers."""
    src, dst = context.src, context.dst
    argument = next((name for name, same in sorted(context.same[pair].items()) if not same), None)
    ours, theirs = src.main.ops.tensors(pair.src), dst.main.ops.tensors(pair.dst)
    if argument is None or not ours:
        return None
    name, counterpart = dst.prefix + dst.main.ops.stored(theirs[argument])[0], ours.get(argument)
    expression = context.mapping.get(name)
    made = "the destination's own value" if expression is None else str(expression)
    both = (src, pair.src), (dst, pair.dst)
    kinds = ["batch_norm" if argument.startswith("norm.") else side.main.ops.op(op).kind for side, op in both]
    where = f"{name.rpartition('.')[0]} ({kinds[1]})"
    if counterpart is None:
        return Cause(f"{name} is {made}: not what the source computes with", dst=where)
    other = src.prefix + src.main.ops.stored(counterpart)[0]
    text = f"{name} is not what the source computes with" if made == other else f"{name} is {made}, which is not {other}"
    return Cause(text, "", f"{other.rpartition('.')[0]} ({kinds[0]})", where)


def unaligned_cause(context: Context, src: str, dst: str) -> Cause | None:
    """Return an unaligned operation before a pair whose inputs should agree."""
    ops = context.src.main.ops, context.dst.main.ops
    ours, theirs = unaligned_before(context.src, src, context.images), unaligned_before(context.dst, dst, context.partners)
    kinds = {ops[0].op(name).kind for name in ours}, {ops[1].op(name).kind for name in theirs}
    surplus = (
        [name for name in ours if ops[0].op(name).kind not in kinds[1]] or ours,
        [name for name in theirs if ops[1].op(name).kind not in kinds[0]] or theirs,
    )
    if surplus[0] and surplus[1]:
        differs = attribute_cause(context, surplus[0][0], surplus[1][0])
        places = place(context.src, surplus[0][0]), place(context.dst, surplus[1][0])
        return Cause(differs.text if differs else "", "", *places)
    if surplus[1]:
        op = ops[1].op(surplus[1][0])
        return Cause(f"{op.spelling} without a counterpart in the source", dst=place(context.dst, op.name))
    if surplus[0]:
        op = ops[0].op(surplus[0][0])
        return Cause(f"{op.spelling} without a counterpart in the destination", src=place(context.src, op.name))
    return None
