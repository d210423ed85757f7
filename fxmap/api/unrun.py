"""Inputs that do not fit: a mapping that fails for want of a run is laid to the inputs, and not to the models."""

import torch
from torch import Tensor, nn

from fxmap.api.map_options import MapOptions
from fxmap.capture.recorded import RECORDED
from fxmap.errors import ArgumentError, CaptureError, QuantizationError
from fxmap.forms.twin import float_twin
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.model.inputs import Inputs
from fxmap.model.wrappers import unwrap


def refuse_inputs(
    mapping: KeyMapping, src: nn.Module, dst: nn.Module, options: MapOptions, *, carried: bool = False
) -> None:
    """Refuse inputs that a user gave, and on which one of the models does not run, where the mapping failed.

    Args:
        mapping: what was found.
        src, dst: the two models.
        options: `example_inputs` are those that the user gave, or None.
        carried: whether the source came with its graph, so that a mapping without a run is no answer.

    Raises:
        ArgumentError: a model does not run on them; the message has the line of its code, the error and the shapes.

    Cost: nothing where both models were run, or all keys are mapped; else one run of each model.
    """
    proof = mapping.proof
    if options.example_inputs is None or proof.ok or proof.forwards:
        return
    if not (mapping.missing or mapping.mismatched or mapping.knowledge.different or (carried and proof.asked)):
        return
    given = options.given(src, dst)
    own = "example_inputs" if options.dst_inputs is None else "dst_inputs"
    for what, model, inputs, name in (
        ("source", src, given.src, "example_inputs"),
        ("destination", dst, given.dst, own),
    ):
        if inputs is not None and (why := _failure(model, inputs)):
            others = "" if own == "dst_inputs" else ", or give dst_inputs= where the destination takes others"
            others = ", or leave it out: the source carries inputs of its own" if carried and what == "source" else others
            raise ArgumentError(
                f"{name} ({_told(inputs)}): the {what} does not run on it: {why}. Nothing was written. "
                f"Correct {name}{others}"
            )


def _told(inputs: Inputs) -> str:
    return ", ".join(f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in inputs.flat()) or "no tensors"


def _beside(value: Tensor, weight: Tensor) -> Tensor:
    """Return an input on a weight's device and in its precision; zeros for one of the meta device, which has no numbers."""
    dtype = weight.dtype if value.is_floating_point() else value.dtype
    if value.is_meta and not weight.is_meta:
        return torch.zeros(value.shape, dtype=dtype, device=weight.device)
    return value.to(weight.device, dtype)


def _failure(model: nn.Module, inputs: Inputs) -> str:
    """Return why a model does not run on inputs; empty where it does, or where that cannot be told."""
    inner, _ = unwrap(model)
    first = next((value for value in inner.parameters() if value.is_floating_point()), None)
    if first is not None:
        # A proof runs in a precision of its own, and a model without numbers on shapes alone.
        inputs = inputs.map(lambda t: _beside(t, first))
    try:
        with torch.no_grad():
            RECORDED.capture(float_twin(inner, marked=True).module, inputs)
    except QuantizationError:
        return ""
    except CaptureError as error:
        text = str(error)
        return "" if first is not None and first.is_meta and "meta" in text else text
    return ""
