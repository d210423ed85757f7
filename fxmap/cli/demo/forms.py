"""The quantized forms of the demo, and the recipes that make them the usual way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxmap.cli.demo.data import Network
from fxmap.forms.fill import run as run_batches


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
    """One quantized form: its reference recipe, whether it needs calibration, whether it is int8, and its engine."""

    name: str
    recipe: Callable[[Any, Sequence[Tensor], str], nn.Module]
    calibrated: bool = False
    int8: bool = False
    engine: str = "fbgemm"

    def destination(self, network: Network) -> nn.Module:
        """Build the form with its own initial weights, as a user does who builds the destination first."""
        if self.int8:
            return network.quantizable(quantize=True, backend=self.engine)
        return self.recipe(network.quantizable(), (), self.engine)

    def reference(self, network: Network, state: Mapping[str, Any], batches: Sequence[Tensor]) -> nn.Module:
        """Load the float weights into the quantizable model, then make the form from it."""
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
