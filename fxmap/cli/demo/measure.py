"""One form of the demo, measured: filled by fxmap and by the reference recipe, and both against the float source."""

import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxmap
from fxmap.cli.demo.data import Network
from fxmap.cli.demo.forms import Form
from fxmap.mapping.key_mapping import KeyMapping


@dataclass(frozen=True)
class Measured:
    """The measurements of one form.

    Attributes:
        form: the form.
        today: how the plain load_state_dict ends.
        mapping: what fxmap.load returned.
        error, reference_error: how far the outputs of the model that fxmap filled, and of the reference, are from the float
            model's: relative to its largest logit, or for int8 the SQNR in dB.
        differing: the number of state dict keys that differ from the reference's.
        agreeing: the number of held-out images that are classified as by the float model.
    """

    form: Form
    today: str
    mapping: KeyMapping
    error: float
    reference_error: float
    differing: int
    agreeing: int


@dataclass(frozen=True)
class Source:
    """The fine-tuned float model, its file, calibration images, and held-out images with its logits of them."""

    network: Network
    model: nn.Module
    file: Path
    calibration: tuple[Tensor, ...]
    held_out: Tensor
    logits: Tensor


def measure(form: Form, source: Source) -> Measured:
    """Fill one form by fxmap and by the reference recipe, and compare both with the float source."""
    state = torch.load(source.file, weights_only=True)
    with quantized_engine(form.engine):
        dst = form.destination(source.network)
        today = load_state_dict_today(deepcopy(dst), state)
        calibration = source.calibration if form.calibrated else None
        mapping = fxmap.load(dst, source.file, src=source.model, calibration=calibration)
        reference = form.reference(source.network, state, source.calibration)
        differing = count_differing(dst.state_dict(), reference.state_dict())
        actual, usual = (logits(model, source.held_out) for model in (dst, reference))
    return Measured(
        form,
        today,
        mapping,
        _distance(form, source.logits, actual),
        _distance(form, source.logits, usual),
        differing,
        int((source.logits.argmax(1) == actual.argmax(1)).sum()),
    )


def _distance(form: Form, expected: Tensor, actual: Tensor) -> float:
    if form.int8:
        return fxmap.sqnr(expected, actual)
    return float((actual - expected).abs().max() / expected.abs().max())


def load_state_dict_today(dst: nn.Module, state: Mapping[str, Any]) -> str:
    """Describe how the plain `dst.load_state_dict(state)` ends; it may change `dst`.

    >>> load_state_dict_today(nn.Linear(2, 3), nn.Linear(2, 3).state_dict())
    'all 2 keys match'
    >>> load_state_dict_today(nn.Linear(2, 3), {"weight": torch.zeros(3, 2), "b": torch.zeros(3)})
    'RuntimeError: 1 key missing, 1 unexpected'
    """
    try:
        dst.load_state_dict(state)
    except Exception as error:  # torch raises what it raises: that is what is shown
        # As its message lists them, which names some keys of fake quantizers more than once.
        missing, unexpected = (_count_named(kind, str(error)) for kind in ("Missing", "Unexpected"))
        if not missing and not unexpected:
            return traceback.format_exception_only(error)[-1].strip()
        return f"{type(error).__name__}: {missing} key{'' if missing == 1 else 's'} missing, {unexpected} unexpected"
    return f"all {len(state)} keys match"


def _count_named(kind: str, message: str) -> int:
    found = re.search(rf"{kind} key\(s\) in state_dict: (.*)", message)
    return len(set(found[1].split(", "))) if found else 0


def count_differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """Count the keys that only one of two state dicts has, or whose values are not bit-equal."""
    return sum(key not in one or key not in other or not _same(one[key], other[key]) for key in one.keys() | other.keys())


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return bool(one == other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.is_quantized:
        # Equal integers under equal scales and zero points.
        same_integers = torch.equal(one.int_repr(), other.int_repr())
        return one.qscheme() == other.qscheme() and same_integers and torch.equal(one.dequantize(), other.dequantize())
    return torch.equal(one, other)


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return a model's outputs in eval mode with fake quantizers off, so that a QAT model computes its float network."""
    import torch.ao.quantization as tq

    model.eval().apply(tq.disable_fake_quant).apply(tq.disable_observer)
    with torch.no_grad():
        return torch.cat([model(batch) for batch in torch.split(images, 64)])


@contextmanager
def quantized_engine(name: str) -> Iterator[None]:
    """Compute int8 with one of torch's engines inside a `with` block, and restore the previous one."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
