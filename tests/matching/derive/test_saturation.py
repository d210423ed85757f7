"""ReLU6 sources in int8 destinations that have ReLU."""

from collections.abc import Iterator

import pytest
import torch
import torch.ao.quantization as tq
from torch import Tensor, nn

import fxmap
from fxmap.run.noise import equal_states

pytestmark = pytest.mark.usefixtures("fbgemm")


class Saturating(nn.Module):
    """Three convolutions, most of whose outputs a ReLU6 changes."""

    def __init__(self, activation: type[nn.Module] | None = nn.ReLU6) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)
        self.clamped = activation is None
        self.act1, self.act2 = (None if activation is None else activation() for _ in range(2))
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        """Return maps, `b 4 h w`."""
        x = self.first(self.quant(x))
        x = torch.clamp(x, 0, 6) if self.act1 is None else self.act1(x)
        x = self.second(x)
        x = torch.clamp(x, 0, 6) if self.act2 is None else self.act2(x)
        return self.dequant(self.third(x))


@pytest.fixture(autouse=True)
def exact_kernels() -> Iterator[None]:
    """Compute with QNNPACK: on CPUs without VNNI the other engines add pairs of products in 16 bits, which overflow."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "qnnpack"
    yield
    torch.backends.quantized.engine = before


def float_source(activation: type[nn.Module] | None = nn.ReLU6) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = Saturating(activation).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model


def images(seed: int) -> Tensor:
    return 2 * torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def converted(*, fused: bool) -> nn.Module:
    model = Saturating(nn.ReLU).eval()
    if fused:
        tq.fuse_modules(model, [["first", "act1"], ["second", "act2"]], inplace=True)
    vars(model)["qconfig"] = tq.QConfig(activation=tq.default_observer, weight=tq.default_per_channel_weight_observer)
    tq.prepare(model, inplace=True)
    model(images(5))
    return tq.convert(model)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("activation", [nn.ReLU6, None])
def test_clamped_ranges_compute_the_relu6(activation: type[nn.Module] | None, fused: bool) -> None:
    src, held_out = float_source(activation), images(2)
    ratios = {}
    for relu6 in ("reference", "clamp"):
        dst = converted(fused=fused)
        mapping = fxmap.transfer(src, dst, calibration=[images(1)], relu6=relu6, verify=False)
        ratios[relu6] = fxmap.sqnr(src(held_out), dst(held_out))
        assert fxmap.KeyMapping.from_json(mapping.to_json()) == mapping
    assert ratios["reference"] < 15
    assert ratios["clamp"] > 28


def test_the_report_says_what_the_reference_recipe_costs() -> None:
    mapping = fxmap.transfer(float_source(), converted(fused=True), calibration=[images(1)], verify=False)
    (note,) = [note for note in mapping.knowledge.notes if "do not saturate" in note]
    assert note.startswith("the source clamps at 6 where the destination has 2 relus that do not saturate; without any")
    assert 'relu6="clamp"' in note


def test_nothing_is_said_of_a_source_that_does_not_saturate() -> None:
    dst, plain = converted(fused=True), converted(fused=True)
    mapping = fxmap.transfer(float_source(nn.ReLU), dst, calibration=[images(1)], relu6="clamp", verify=False)
    fxmap.transfer(float_source(nn.ReLU), plain, calibration=[images(1)], verify=False)
    assert not mapping.knowledge.saturating
    assert all(equal_states(value, plain.state_dict()[key]) for key, value in dst.state_dict().items())


def test_a_prepared_destination_is_refused_and_left_as_it_was() -> None:
    dst = Saturating(nn.ReLU).eval()
    vars(dst)["qconfig"] = tq.QConfig(activation=tq.default_observer, weight=tq.default_weight_observer)
    tq.prepare(dst, inplace=True)
    before = {key: value.clone() for key, value in dst.state_dict().items()}
    with pytest.raises(fxmap.QuantizationError, match="Convert it first"):
        fxmap.transfer(float_source(), dst, calibration=[images(1)], relu6="clamp", verify=False)
    assert all(torch.equal(value, before[key]) for key, value in dst.state_dict().items())


@pytest.mark.parametrize(("calibration", "relu6"), [([images(1)], "six"), (None, "clamp"), ("keep", "clamp")])
def test_wrong_options_are_refused_before_anything_is_done(calibration: object, relu6: str) -> None:
    with pytest.raises(ValueError, match="relu6"):
        fxmap.transfer(float_source(), converted(fused=True), calibration=calibration, relu6=relu6)  # type: ignore[arg-type]


def test_only_clamped_ranges_use_the_upper_half_of_the_integers_and_the_report_says_so() -> None:
    dst = converted(fused=True)
    mapping = fxmap.transfer(float_source(), dst, calibration=[images(1)], relu6="clamp", verify=False)
    low, high = images(1).aminmax()
    state = dst.state_dict()
    assert float(state["first.scale"]) == pytest.approx(6 / 255)
    assert float(state["quant.scale"]) == pytest.approx(float(high - low) / 127, rel=1e-3)
    (note,) = [note for note in mapping.knowledge.notes if "end at the bound" in note]
    assert "use all of 0..255" in note
