"""What torch lets pass silently, and fxmap must not."""

import pytest
import torch
import torch.ao.quantization as tq
from torch import Tensor, nn

import fxmap
from fxmap.expressions.packing import pack

pytestmark = pytest.mark.usefixtures("fbgemm")


class Net(nn.Module):
    """A convolution with a batch norm and a head; `transform` changes its input, and is not in the state dict."""

    def __init__(self, *, affine: bool = True, transform: bool = False) -> None:
        super().__init__()
        self.transform = transform
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.conv, self.norm, self.act = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=affine), nn.ReLU()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, `b 4`."""
        if self.transform:
            x = torch.cat([x[:, :1] * 0.4 + 0.1, x[:, 1:] * 0.5], 1)
        return self.dequant(self.head(self.act(self.norm(self.conv(self.quant(x)))).mean((2, 3))))


IMAGES = torch.randn(8, 3, 10, 10, generator=torch.Generator().manual_seed(0))


def net(seed: int, *, affine: bool = True, transform: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    model = Net(affine=affine, transform=transform)
    with torch.no_grad():
        model(IMAGES)
    return model.eval()


def int8(model: nn.Module) -> nn.Module:
    tq.fuse_modules(model, [["conv", "norm", "act"]], inplace=True)
    vars(model)["qconfig"] = tq.QConfig(activation=tq.default_observer, weight=tq.default_per_channel_weight_observer)
    tq.prepare(model, inplace=True)
    model(IMAGES)
    return tq.convert(model)


def qat(model: nn.Module) -> nn.Module:
    tq.fuse_modules_qat(model.train(), [["conv", "norm", "act"]], inplace=True)
    vars(model)["qconfig"] = tq.get_default_qat_qconfig("fbgemm")
    return tq.prepare_qat(model, inplace=True)


def test_a_norm_of_weight_0_would_be_nan_in_qat() -> None:
    src, dst = net(1), qat(net(2))
    with torch.no_grad():
        src.norm.weight[3] = 0
    before = dst.state_dict()["conv.weight"].clone()
    with pytest.raises(fxmap.QuantizationError, match=r"conv.bn.weight: 1 channels .* NaN"):
        fxmap.transfer(src, dst, verify=False)
    assert torch.equal(dst.state_dict()["conv.weight"], before)
    fxmap.transfer(src, int8(net(2)), calibration=[IMAGES], verify=False)  # folding multiplies


def test_a_norm_without_weight_and_bias_is_folded_as_torch_does() -> None:
    src, dst = net(1, affine=False), int8(net(2))
    reference = int8(net(1, affine=False))
    fxmap.transfer(src, dst, calibration=[IMAGES], verify=False)
    assert torch.equal(dst(IMAGES), reference(IMAGES))


def test_another_treatment_of_the_input_is_named() -> None:
    with pytest.warns(fxmap.ProofWarning, match="the input goes through nothing before, against"):
        mapping = fxmap.transfer(net(1, transform=True), int8(net(2)), calibration=[IMAGES])
    assert not mapping.proof.ok
    assert not mapping.proof.refuted
    assert mapping.proof.divergence is not None
    same = fxmap.transfer(net(1, transform=True), int8(net(2, transform=True)), calibration=[IMAGES])
    assert same.proof.ok, str(same)


def test_a_head_that_was_replaced_after_conversion_is_named() -> None:
    dst = int8(net(2))
    dst.head = nn.Linear(8, 4)
    with pytest.raises(fxmap.QuantizationError, match="head: a float layer stands inside the quantized part"):
        fxmap.transfer(net(1), dst, calibration=[IMAGES])


def quantized(*shape: int, dtype: torch.dtype = torch.qint8) -> Tensor:
    return torch.quantize_per_tensor(torch.randn(shape), 0.1, 0, dtype)


def test_packed_parts_of_another_shape_or_kind_are_refused() -> None:
    dst = int8(net(2))
    before = dst(IMAGES)
    key = "head._packed_params._packed_params"
    mapping = fxmap.auto_map(net(1), dst, verify=False)
    full = mapping.evaluate(net(1).state_dict(), like=dst.state_dict())
    for wrong, message in (
        ((quantized(4, 9), torch.zeros(4)), r"\[0\]: source \[4, 9\], destination \[4, 8\]"),
        ((quantized(4, 8), torch.zeros(5)), r"\[1\]: source \[5\], destination \[4\]"),
        ((quantized(4, 8, dtype=torch.quint8), torch.zeros(4)), r"\[0\]: source torch.quint8"),
        ((torch.randn(4, 8), torch.zeros(4)), r"\[0\]: source torch.float32, destination torch.qint8"),
    ):
        with pytest.raises(fxmap.LoadError, match=message):
            mapping.write(dst, full | {key: wrong})
    assert torch.equal(dst(IMAGES), before)


def test_packed_objects_of_another_size_are_refused() -> None:
    dst = tq.quantize_dynamic(nn.Sequential(nn.LSTM(8, 4)), {nn.LSTM})
    mapping = fxmap.auto_map(nn.Sequential(nn.LSTM(8, 4)), dst, example_inputs=torch.zeros(3, 2, 8), verify=False)
    (key,) = mapping
    wrong = pack("cell", (quantized(16, 9), quantized(16, 4), torch.zeros(16), torch.zeros(16)))
    with pytest.raises(fxmap.LoadError, match=r"\[0\]: source \[16, 9\], destination \[16, 8\]"):
        mapping.write(dst, {key: wrong})


def test_a_float_state_dict_is_refused_where_torch_would_raise_from_inside() -> None:
    src, dst = net(1), int8(net(2))
    with pytest.raises(fxmap.MissingCalibration, match="calibration="):
        fxmap.load(dst, src.state_dict(), src=net(3))
