"""What is said of calibration that is lacking or no iterable of batches, and of a destination that is filled."""

import pytest
import torch
from torch import nn
from torch.ao import quantization

import fxmap
from fxmap.cli.advice import as_options


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.fc, self.dequant = quantization.QuantStub(), nn.Linear(4, 4), quantization.DeQuantStub()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dequant(self.fc(self.quant(x)))


def prepared(qat: bool = False) -> nn.Module:
    net = Net().train(qat)
    net.qconfig = quantization.get_default_qat_qconfig("fbgemm") if qat else quantization.get_default_qconfig("fbgemm")
    (quantization.prepare_qat if qat else quantization.prepare)(net, inplace=True)
    net(torch.randn(8, 4))
    return net.eval()


@pytest.mark.parametrize("qat", [False, True])
def test_a_source_with_observers_gives_its_ranges_converted_or_not(qat: bool) -> None:
    src, x = prepared(qat), torch.randn(3, 4)
    converted = quantization.convert(src)
    for source in (src, converted):
        dst = quantization.convert(prepared())
        fxmap.transfer(source, dst, example_inputs=torch.randn(2, 4))
        assert torch.equal(converted(x), dst(x))


def test_a_mapping_of_a_source_with_observers_says_what_takes_their_ranges_over() -> None:
    src, dst = prepared(qat=True), quantization.convert(prepared())
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 4))
    with pytest.raises(fxmap.MissingCalibration, match=r"observers: .* fxmap\.transfer\(src, dst\)"):
        mapping.load_into(dst, src.state_dict())
    fxmap.transfer(src, dst, example_inputs=torch.randn(2, 4))
    x = torch.randn(3, 4)
    assert torch.equal(quantization.convert(src)(x), dst(x))


def test_a_float_source_is_not_told_of_observers() -> None:
    with pytest.raises(fxmap.MissingCalibration) as caught:
        fxmap.transfer(Net(), quantization.convert(prepared()), example_inputs=torch.randn(2, 4))
    assert "observers" not in str(caught.value)


def test_one_tensor_is_no_iterable_of_batches() -> None:
    with pytest.raises(TypeError, match=r"one tensor of shape \[8, 4\].*calibration=\[tensor\]"):
        fxmap.transfer(Net(), quantization.convert(prepared()), calibration=torch.randn(8, 4))


def test_a_filled_destination_has_no_next_step() -> None:
    src, dst = nn.Linear(3, 2), nn.Linear(3, 2)
    assert "next: load a checkpoint" in fxmap.auto_map(src, dst).summary()
    for mapping in (fxmap.transfer(src, dst), fxmap.load(dst, src.state_dict(), src=src)):
        assert mapping.ok
        assert "next:" not in mapping.summary()
        assert mapping == fxmap.auto_map(src, dst)


def test_every_way_out_of_missing_calibration_is_an_option_on_the_command_line() -> None:
    text = as_options(str(fxmap.MissingCalibration("fc.scale", ["fc.scale"])))
    assert all(words in text for words in ("--calibration FILE", "--calibration distilled", "--calibration keep"))
    assert "=" not in text
