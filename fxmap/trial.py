"""What a destination alone can tell: which keys it reads, and whether it runs with what was mapped."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fxmap.capture.replica import replicate
from fxmap.errors import CaptureError, QuantizationError
from fxmap.inputs import Inputs, guess_inputs
from fxmap.mapping import KeyMapping
from fxmap.side import side, unwrap
from fxmap.values import tensors_of

logger = logging.getLogger(__name__)


def unread_keys(model: nn.Module) -> frozenset[str]:
    """Return the keys that a model never reads in eval mode; none where it has no graph to ask.

    >>> class Head(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.used, self.idle = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    ...     def forward(self, x):
    ...         return self.used(x)
    >>> unread_keys(Head())
    frozenset({'idle.weight'})
    """
    try:
        known = side(model)
    except (CaptureError, QuantizationError) as error:
        logger.info("which keys the destination reads is not known: %s", error)
        return frozenset()
    keys = (key for key in known.model.state_dict() if key in known.twin.stores)
    return frozenset(known.prefix + key for key in keys if known.main.read.isdisjoint(known.names(key)))


def run_with(mapping: KeyMapping, state: Mapping[str, Any], dst: nn.Module, given: Inputs | None) -> str:
    """Run the destination once with the mapped weights, in a replica, and say what came of it.

    It shows that shapes fit and that values stay finite, and nothing about which key is which.
    """
    inner, prefix = unwrap(dst)
    full = {key.removeprefix(prefix): value for key, value in mapping.evaluate(state, like=dst.state_dict()).items()}
    if not len(mapping) or not all(isinstance(value, Tensor) and not value.is_meta for value in full.values()):
        return ""
    replica = replicate(inner).eval()
    own = dict(inner.state_dict())
    cast = {key: value.to(own[key].dtype) for key, value in full.items()}
    reason = "no inputs were found; pass example_inputs=(x,)"
    choices: Iterable[Inputs] = guess_inputs(inner) if given is None else [given]
    for inputs in choices:
        try:
            with torch.no_grad():
                outputs = tensors_of(functional_call(replica, cast, inputs.args, dict(inputs.kwargs)))
        except Exception as error:
            # A model may refuse inputs that were guessed for it in any way it likes.
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        finite = all(bool(torch.isfinite(value).all()) for value in outputs if value.is_floating_point())
        what = "all outputs are finite" if finite else "some outputs are not finite: a wrong key is likely"
        return f"the destination runs with the mapped weights on {inputs.size}, {what}; which key is which, this cannot show"
    return f"the destination could not be run with the mapped weights: {reason}"
