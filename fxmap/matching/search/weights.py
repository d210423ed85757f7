"""Make the weights of a destination layer from those of its partner, and find the order of its input channels."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from fxmap.matching.align.alignment import Alignment, Evidence, Pair
from fxmap.matching.derive.derivation import derive_operands, in_stored_sources, in_stored_tensors
from fxmap.matching.search.channels import order_of_channels
from fxmap.matching.search.destination import DestinationRun
from fxmap.matching.search.fingerprint import fingerprint, is_data, same_prints
from fxmap.matching.search.layers import RecordedLayer
from fxmap.matching.search.source import SourceRun


def give_weights(
    source: SourceRun, run: DestinationRun, layers: Sequence[RecordedLayer], partners: Mapping[str, RecordedLayer]
) -> None:
    """Set the weights of destination layers to values made from their partners' weights; layers without one are skipped."""
    pairs = tuple(Pair(partners[m.name].name, m.name, Evidence.VALUES) for m in layers if m.name in partners)
    ours, theirs = source.captured.ops, run.captured.ops
    operands = derive_operands(ours, theirs, Alignment(pairs, 1.0))
    made = in_stored_tensors(operands, ours, theirs).expressions
    for path, expression in made.items():
        value = expression.evaluate(source.tensors, quantized=False)
        if value.shape == run.tensors[path].shape:
            run.tensors[path] = value
    if theirs.computed:
        run.forget_weights()
    for name in operands.expressions.keys() & theirs.composed.keys():
        # A part of a tensor whose other parts are not known yet: an expert in a stack.
        if theirs.numbering is not None and not made.keys() >= set(theirs.parts(name)):
            value = in_stored_sources(operands.expressions[name], ours).evaluate(source.tensors, quantized=False)
            run.tensors.update(theirs.numbering.write(theirs.composed[name], value, run.tensors))
            run.forget_weights()


def reorder_channels(
    source: SourceRun, run: DestinationRun, layer: RecordedLayer, partner: RecordedLayer, expected: Tensor
) -> tuple[int, ...] | None:
    """Permute the input channels of a layer's weight to the order in which it reads them, if its output is then `expected`.

    `expected` is the fingerprint of that output. Returns the order, or None if there is none; nothing is changed then.
    """
    weight = run.captured.ops.tensors(layer.name).get("weight")
    if weight is None or weight.key not in run.tensors or len(layer.inputs) != 1 or len(partner.inputs) != 1:
        return None
    op = run.captured.ops.op(layer.name)
    axis = {"convolution": 1, "linear": -1}.get(op.kind)
    ours, theirs = source.values.get(partner.inputs[0]), run.value(layer.inputs[0])
    if axis is None or op.attribute("groups", 1) != 1 or op.attribute("axes"):
        return None
    if not is_data(ours) or not is_data(theirs):
        return None
    order = order_of_channels(*(value.movedim(axis, 0).flatten(1) for value in (ours, theirs)))
    before = run.tensors[weight.key]
    if order is None or before.shape[1] != len(order):
        return None
    run.write(layer, {weight.key: before[:, list(order)]})
    value = run.value(layer.output)
    if isinstance(value, Tensor) and same_prints(fingerprint(layer.read(value)), expected):
        return order
    run.write(layer, {weight.key: before})
    return None
