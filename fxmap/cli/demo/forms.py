"""The quantized forms of the demo, their reference recipes, and how both are measured."""

import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxmap
from fxmap.cli.demo.data import Network
from fxmap.forms.fill import run as run_batches
from fxmap.mapping.key_mapping import KeyMapping


def as_is(model: Any, batches: Sequence[Tensor], engine: str) -> nn.Module:
    """Leave the quantizable model as it is."""
    return model  # type: ignore[no-any-return]


def fuse(model: Any, batches: Sequence[Tensor], engine: str) -> nn.Module:
    """Fuse for inference: batch norms are folded."""
    model.eval().fuse_model(is_qat=False)
    return model  # type: ignore[no-any-return]


def fuse_qat(model: Any, batches: Sequence[Tensor], engine: str) -> nn.Module:
    """Fuse for quantization-aware training: batch norms stay."""
    model.train().fuse_model(is_qat=True)
    return model  # type: ignore[no-any-return]


def prepare(model: Any, batches: Sequence[Tensor], engine: str) -> nn.Module:
    """Fuse, put in observers as torchvision's quantize_model does, and calibrate where there are batches."""
    import torch.ao.quantization as tq

    per_channel = engine == "fbgemm"
    weight = tq.default_per_channel_weight_observer if per_channel else tq.default_weight_observer
    model.eval()
    model.qconfig = tq.QConfig(activation=tq.default_observer, weight=weight)
    model.fuse_model()
    tq.prepare(model, inplace=True)
    if batches:
        run_batches(model, batches)
    return model  # type: ignore[no-any-return]


def prepare_qat(model: Any, batches: Sequence[Tensor], engine: str) -> nn.Module:
    """Fuse and put in fake quantizers for quantization-aware training."""
    import torch.ao.quantization as tq

    fuse_qat(model, batches, engine)
    model.qconfig = tq.get_default_qat_qconfig(engine)
    tq.prepare_qat(model, inplace=True)
    return model  # type: ignore[no-any-return]


def convert(model: Any, batches: Sequence[Tensor], engine: str) -> nn.Module:
    """Fuse, prepare, calibrate, and convert to static int8."""
    import torch.ao.quantization as tq

    prepare(model, batches, engine)
    tq.convert(model, inplace=True)
    return model  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Form:
    """One quantized form: how the reference makes it, and what it needs."""

    name: str
    recipe: Callable[[Any, Sequence[Tensor], str], nn.Module]
    calibrated: bool = False
    int8: bool = False
    engine: str = "fbgemm"

    def destination(self, network: Network) -> nn.Module:
        """Build the form with weights of its own, as a user has it who built the model first."""
        if self.int8:
            return network.quantizable(quantize=True, backend=self.engine)
        return self.recipe(network.quantizable(), (), self.engine)

    def reference(self, network: Network, state: Mapping[str, Any], batches: Sequence[Tensor]) -> nn.Module:
        """Load the float weights first, and make the form of that."""
        model = network.quantizable()
        model.load_state_dict(state)
        return self.recipe(model, batches, self.engine)


FORMS = (
    Form("quantizable", as_is),
    Form("fused for eval", fuse),
    Form("fused for QAT", fuse_qat),
    Form("prepared, observers", prepare, calibrated=True),
    Form("prepared for QAT", prepare_qat),
    Form("int8 per channel, fbgemm", convert, calibrated=True, int8=True),
    Form("int8 per tensor, qnnpack", convert, calibrated=True, int8=True, engine="qnnpack"),
)


@dataclass(frozen=True)
class Measured:
    """What was measured of one form.

    `error` and `reference_error` are relative to the float model's largest logit; for int8 they are SQNR in dB.
    `differing` is the number of state dict keys that differ from the reference's, `agreeing` of predictions that are the
    float model's.
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
    """The fine-tuned float model, its file, images to calibrate with, and what it says of held-out ones."""

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
    """Say how the plain `dst.load_state_dict(state)` ends; it may change `dst`.

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
    """Run in eval mode, with fake quantizers off: what remains of a QAT model is its float network."""
    import torch.ao.quantization as tq

    model.eval().apply(tq.disable_fake_quant).apply(tq.disable_observer)
    with torch.no_grad():
        return torch.cat([model(batch) for batch in torch.split(images, 64)])


@contextmanager
def quantized_engine(name: str) -> Iterator[None]:
    """Compute int8 with one of torch's engines, and put the old one back."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
