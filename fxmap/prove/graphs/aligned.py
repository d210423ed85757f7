"""The aligned operations that a proof compares."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from fxmap.graph.opgraph import INPUT, OUTPUT, TENSOR
from fxmap.matching.align.alignment import Pair
from fxmap.matching.plan import Plan
from fxmap.matching.sides import Side


def aligned(plan: Plan) -> list[Pair]:
    """Return the aligned pairs of operations, without inputs and outputs, in the order in which the destination computes.

    Pairs that depend on constants alone are left out: a mask may have any shape and be computed in any way, and the
    operations that read it are compared. So are uninitialised tensors (`empty_like`), which hold any numbers.
    """
    order = {node.name: index for index, node in enumerate(plan.dst.main.graph.nodes)}
    varying = set(varying_operations(plan.src)), set(varying_operations(plan.dst))
    left_out = (INPUT, OUTPUT, *_UNWRITTEN)
    pairs = [
        pair
        for pair in plan.alignment.pairs
        if (pair.src in varying[0] or pair.dst in varying[1]) and plan.src.main.ops.op(pair.src).kind not in left_out
    ]
    return sorted(pairs, key=lambda pair: order[plan.dst.main.ops.op(pair.dst).output])


_UNWRITTEN = ("empty_like", "new_empty", "new_empty_strided")


def without_exchanged(plan: Plan) -> Plan:
    """Return a plan without the pairs of two different kinds of analytic operations that read no parameters or buffers.

    Such a pair stands at one place of both graphs, as tanh and sigmoid do, or sqrt in x / sqrt(v) and rsqrt in x rsqrt(v),
    so that what differs is named. Where the outputs agree, the two may be parts of one function in two spellings.
    """
    graphs = plan.src.main.ops, plan.dst.main.ops

    def exchanged(pair: Pair) -> bool:
        names = pair.src, pair.dst
        kinds = {ops.op(name).kind for ops, name in zip(graphs, names, strict=True)}
        parts = any(name in ops.pieces and not ops.pieces[name].analytic for ops, name in zip(graphs, names, strict=True))
        return len(kinds) > 1 and not parts and not any(ops.tensors(name) for ops, name in zip(graphs, names, strict=True))

    return without(plan, exchanged)


def without(plan: Plan, dropped: Callable[[Pair], bool]) -> Plan:
    """Return a plan without some of its pairs."""
    kept = tuple(pair for pair in plan.alignment.pairs if not dropped(pair))
    return plan if len(kept) == len(plan.alignment.pairs) else replace(plan, alignment=replace(plan.alignment, pairs=kept))


def unaligned_before(side: Side, name: str, known: Mapping[str, str]) -> list[str]:
    """Return the unaligned operations between an operation and the nearest aligned ones before it, in graph order."""
    ops, found, queue = side.main.ops, set(), [name]
    varying = set(varying_operations(side))
    while queue:
        for producers in ops.operands(queue.pop()).values():
            for producer in producers:
                if producer in varying and producer not in known and producer not in found:
                    found.add(producer)
                    queue.append(producer)
    return [op.name for op in ops.ops() if op.name in found]


def varying_operations(side: Side) -> list[str]:
    """Return the operations that depend on an input, a parameter or a buffer, and not on constants alone."""
    ops, found = side.main.ops, dict[str, None]()
    for op in ops.ops():
        producers = [producer for names in ops.operands(op.name).values() for producer in names]
        if any(producer in found or ops.op(producer).kind in (INPUT, TENSOR) for producer in producers):
            found[op.name] = None
    return [name for name in found if ops.op(name).kind != OUTPUT]
