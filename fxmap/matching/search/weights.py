"""Make the weights of a destination layer from those of its partner, and find the order of its input channels."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fxmap.matching.align.alignment import Alignment, Evidence, Pair
from fxmap.matching.derive.channel_orders import channels_read, ordered_tensors
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
    """Permute a layer's weights to the order in which it reads its channels, if its output is then `expected`.

    Input channels of a layer that mixes them, and the numbers that a norm or a depthwise layer has for each channel.
    `expected` is the fingerprint of that output. Returns the order, or None if there is none; nothing is changed then.
    """
    ops, axis = run.captured.ops, channels_read(run.captured.ops, layer.name)
    if axis is None or len(layer.inputs) != 1 or len(partner.inputs) != 1:
        return None
    ours, theirs = source.values.get(partner.inputs[0]), run.value(layer.inputs[0])
    if not is_data(ours) or not is_data(theirs) or not -ours.dim() <= axis < ours.dim() or ours.dim() != theirs.dim():
        return None
    order = order_of_channels(*(value.movedim(axis, 0).flatten(1) for value in (ours, theirs)))
    keys = ordered_tensors(ops, layer.name)
    if order is None or not all(key in run.tensors and run.tensors[key].shape[of] == len(order) for key, of in keys.items()):
        return None
    before = {key: run.tensors[key] for key in keys}
    run.write(layer, {key: run.tensors[key].index_select(of, torch.tensor(order)) for key, of in keys.items()})
    value = run.value(layer.output)
    if isinstance(value, Tensor) and same_prints(fingerprint(layer.read(value)), expected):
        return order
    run.write(layer, before)
    return None
