"""Anchors: the operations of two networks that compute the same values, once the weights are solved for.

Structure pairs what stands at equal places. Where two models spell layers in different ways it pairs what does not belong
together. With weights under which both compute the same, values tell: operations of one kind whose results are the same
numbers, in whatever layout, are counterparts.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fxmap.expressions.base import Expression
from fxmap.graph.affine import affine_shape
from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import INPUT, OUTPUT, TENSOR, Op
from fxmap.matching.align.alignment import Alignment, Evidence, Pair
from fxmap.matching.align.signatures import own_attributes
from fxmap.matching.solve.known.source import run
from fxmap.matching.solve.runs.stacked import Values
from fxmap.normalize.network import Network
from fxmap.run.randomize import in_double

_DIGITS = 9


def by_values(
    src: Network,
    dst: Network,
    before: Alignment,
    expressions: Mapping[str, Expression],
    tensors: Mapping[str, Tensor],
    inputs: tuple[Sequence[Tensor], Sequence[Tensor]],
) -> Alignment:
    """Return the alignment of operations that have equal values, with weights that the expressions make.

    Args:
        src, dst: the networks.
        before: an alignment, of which the inputs and outputs are kept.
        expressions: the destination's weights, by path.
        tensors: random weights of the source.
        inputs: inputs of both, each with an axis of samples in front.
    """
    made = {path: expression.evaluate(tensors) for path, expression in expressions.items()}
    own = {path: made.get(dst.canonical[path], in_double(tensor.detach())) for path, tensor in dst.tensors.items()}
    ours, theirs = (
        _found(network, run(network, weights, list(given)))
        for network, weights, given in ((src, tensors, inputs[0]), (dst, own, inputs[1]))
    )
    ends = [pair for pair in before.pairs if src.ops.op(pair.src).kind in (INPUT, OUTPUT)]
    pairs = [
        Pair(one, other, Evidence.VALUES)
        for key in theirs
        for one, other in zip(ours.get(key, ()), theirs[key], strict=False)
    ]
    every = (*ends, *pairs)
    met = {pair.src for pair in every}, {pair.dst for pair in every}
    unmatched = [
        tuple(op.name for op in network.ops.ops() if op.kind != TENSOR and op.name not in names)
        for network, names in ((src, met[0]), (dst, met[1]))
    ]
    return Alignment(every, before.share, *unmatched)


def _found(network: Network, values: Values) -> dict[object, list[str]]:
    """Return the operations by what they are and the numbers that they make, in the order of the graph."""
    by_name = {node.name: value for node, value in values.items()}
    found: dict[object, list[str]] = defaultdict(list)
    for op in network.ops.ops():
        value = by_name.get(op.output)
        if op.kind in (INPUT, OUTPUT, TENSOR) or value is None or not value.stacked or op.rows is not None:
            continue
        if isinstance(value.data, Tensor) and value.data.is_floating_point() and value.data.numel():
            found[(*_what(network, op), _print(value.data))].append(op.name)
    return found


def _what(network: Network, op: Op) -> tuple[object, ...]:
    """Return what two operations have to have in common: their kind, their attributes, and the shapes of their weights."""
    tensors = network.ops.tensors(op.name)
    weight = tensors.get("weight")
    if weight is not None and has(op.kind, Trait.AFFINE):
        return (op.kind, own_attributes(op), affine_shape(op, weight), "bias" in tensors)
    return (op.kind, own_attributes(op), tuple(sorted((name, tensor.extents) for name, tensor in tensors.items())))


def _print(value: Tensor) -> tuple[str, ...]:
    """Return a text that is the same for the same numbers, in whatever order."""
    numbers = value.flatten().sort().values
    looks = torch.linspace(1.0, 2.0, len(numbers), dtype=torch.float64).sin()
    sums = float(looks @ numbers.double()), float(numbers.double().abs().sum())
    return (str(len(numbers)), *(f"{one / (sums[1] + 1e-300):.{_DIGITS}f}" for one in sums), f"{sums[1]:.{_DIGITS - 1}e}")
