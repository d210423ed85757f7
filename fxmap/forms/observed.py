"""Ranges that a source was trained or calibrated with: its observers have them, and its conversion to int8 uses them.

A model that is prepared for QAT, or with observers that have seen data, tells an int8 destination all that it needs: it is
converted by torch, and what comes out is an int8 source, whose ranges and integers are taken over.
"""

import copy
import warnings
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from fxmap.forms.fill import attempt
from fxmap.forms.graph_nodes import is_observer
from fxmap.forms.twin import float_twin


def is_observed(model: nn.Module) -> bool:
    """Whether a model is prepared for quantization, by QAT or with observers."""
    twin = float_twin(model)
    return twin.stage.is_prepared and twin.form.convert is not None


def needs_ranges(model: nn.Module) -> bool:
    """Whether a model is static int8, so that it needs ranges of activations."""
    return float_twin(model).stage.has_ranges


def unseen(model: nn.Module) -> list[str]:
    """Return the observers of activations that have seen no values; those of weights look at these when they convert."""
    return [path for path, low in _lowest(model) if not low.numel() or not bool(torch.isfinite(low).all())]


def _lowest(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, module in model.named_modules():
        low = getattr(module, "min_val", None) if is_observer(module) else None
        if isinstance(low, Tensor) and "weight_fake_quant" not in path:
            yield path, low


def converted(model: nn.Module) -> nn.Module:
    """Return the int8 model that torch's convert makes of a copy of a prepared one.

    Raises:
        QuantizationError: torch refuses.
    """
    form = float_twin(model).form
    assert form.convert is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notices of its own deprecations
        return attempt(partial(form.convert, copy.deepcopy(model)), "convert")
