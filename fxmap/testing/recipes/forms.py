"""Quantized forms of a model, made by torch alone: never by fxmap.

The *reference* of a form is what one gets by loading the float weights into the quantizable model first, and only then
fusing, preparing, calibrating and converting. A *destination* is the same form, built from other weights and other data, so
that no value of it can be right by accident.

>>> from fxmap.testing.recipes.models import randomised_float
>>> source = randomised_float("resnet18", seed=1)
>>> reference = build_form("resnet18", Form.FUSED, source.state_dict())
>>> len(source.state_dict()), len(reference.state_dict())
(122, 42)
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import torch
import torch.ao.quantization as tq
from torch import Tensor, nn

from fxmap.testing.recipes import graphs
from fxmap.testing.recipes.models import float_model, images, quantizable_model

State = Mapping[str, Any]
Batches = Sequence[Tensor]


class Form(StrEnum):
    """A form of a model on the way from float to int8."""

    FLOAT = "float"
    QUANTIZABLE = "quantizable"
    FUSED = "fused"
    FUSED_QAT = "fused-qat"
    PREPARED = "prepared"
    QAT = "qat"
    INT8_CHANNEL = "int8-channel"
    INT8_CHANNEL_DEFAULT = "int8-channel-default"
    INT8_TENSOR = "int8-tensor"
    INT8_TENSOR_DEFAULT = "int8-tensor-default"
    DYNAMIC = "dynamic"
    FX_FUSED = "fx-fused"
    FX_PREPARED = "fx-prepared"
    FX_QAT = "fx-qat"
    FX_INT8 = "fx-int8"
    FX_REFERENCE = "fx-reference"
    PT2E_X86_PREPARED = "pt2e-x86-prepared"
    PT2E_X86_QAT = "pt2e-x86-qat"
    PT2E_X86_INT8 = "pt2e-x86-int8"
    PT2E_XNNPACK_PREPARED = "pt2e-xnnpack-prepared"
    PT2E_XNNPACK_QAT = "pt2e-xnnpack-qat"
    PT2E_XNNPACK_INT8 = "pt2e-xnnpack-int8"

    @property
    def engine(self) -> str:
        """The engine of torch that the form is built for and runs under."""
        return "qnnpack" if self in (Form.INT8_TENSOR, Form.INT8_TENSOR_DEFAULT) else "fbgemm"

    @property
    def qconfig(self) -> Any:
        """The observers that the form is prepared with; None for forms without observers."""
        make = _QCONFIGS.get(self)
        return None if make is None else make()

    @property
    def is_static_int8(self) -> bool:
        """Whether activations are int8, with ranges that come from calibration."""
        return self.startswith("int8-") or self.endswith("-int8") or self is Form.FX_REFERENCE

    @property
    def is_qat(self) -> bool:
        """Whether the model is prepared for QAT."""
        return self is Form.QAT or self.endswith("-qat")

    @property
    def is_graph(self) -> bool:
        """Whether the model is a graph that torch made: FX mode, or PT2E."""
        return self in graphs.BUILDERS


def torchvision_qconfig(*, per_channel: bool) -> Any:
    """Return the qconfig of torchvision's own `quantize_model`: min and max of activations, 0 to 127."""
    weight = tq.default_per_channel_weight_observer if per_channel else tq.default_weight_observer
    return tq.QConfig(activation=tq.default_observer, weight=weight)


_QCONFIGS: dict[Form, Callable[[], Any]] = {
    Form.PREPARED: lambda: torchvision_qconfig(per_channel=True),
    Form.QAT: lambda: tq.get_default_qat_qconfig("fbgemm"),
    Form.INT8_CHANNEL: lambda: torchvision_qconfig(per_channel=True),
    Form.INT8_CHANNEL_DEFAULT: lambda: tq.get_default_qconfig("fbgemm"),
    Form.INT8_TENSOR: lambda: torchvision_qconfig(per_channel=False),
    Form.INT8_TENSOR_DEFAULT: lambda: tq.get_default_qconfig("qnnpack"),
}


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Run with another quantized engine, and restore the old one."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def build_form(
    name: str, form: Form, weights: State, batches: Batches = (), *, qconfig: Any = None, **kwargs: Any
) -> nn.Module:
    """Build a form by the reference recipe: float weights first, then fuse, prepare, calibrate, convert.

    Args:
        name: a key of MODELS.
        form: the form; it must run under `form.engine`.
        weights: the state dict of torchvision's float model.
        batches: calibration data, for static int8; run through a prepared or QAT-prepared model too, if given.
        qconfig: instead of the form's own.
        kwargs: for torchvision's constructor.
    """
    with engine(form.engine), warnings.catch_warnings():
        # Deprecation of torch.ao.quantization, and observers that the batches do not reach (auxiliary heads).
        warnings.simplefilter("ignore")
        if form in (Form.FLOAT, Form.DYNAMIC) or form.is_graph:
            model = float_model(name, **kwargs)
            model.load_state_dict(weights)
            if form.is_graph:
                return graphs.BUILDERS[form](model, batches, images(0, batches=1)[0])
            if form is Form.DYNAMIC:
                model = tq.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
            return model
        model = quantizable_model(name, **kwargs)
        model.load_state_dict(weights)
        return _advance(model, form, batches, qconfig or form.qconfig)


def _advance(model: nn.Module, form: Form, batches: Batches, qconfig: Any) -> nn.Module:
    if form is Form.QUANTIZABLE:
        return model
    if form in (Form.FUSED_QAT, Form.QAT):
        model.train()
        fuse(model, is_qat=True)
        if form is Form.QAT:
            vars(model)["qconfig"] = qconfig
            tq.prepare_qat(model, inplace=True)
            if batches:
                calibrate(model, batches)
        return model
    fuse(model, is_qat=False)
    if form is Form.FUSED:
        return model
    vars(model)["qconfig"] = qconfig
    tq.prepare(model, inplace=True)
    if batches:
        calibrate(model, batches)
    if form is not Form.PREPARED:
        tq.convert(model, inplace=True)
    return model


def fuse(model: Any, *, is_qat: bool) -> None:
    """Call the model's own `fuse_model`."""
    model.fuse_model(is_qat=is_qat)


def calibrate(model: nn.Module, batches: Batches) -> None:
    """Show batches to a model's observers, in eval mode and without gradients."""
    training = model.training
    model.eval()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    model.train(training)


def reference_form(
    source: nn.Module, name: str, form: Form, batches: Batches = (), *, qconfig: Any = None, **kwargs: Any
) -> nn.Module:
    """Build what the form of a float model must be equal to."""
    return build_form(name, form, source.state_dict(), batches, qconfig=qconfig, **kwargs)
