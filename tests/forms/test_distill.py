"""Calibration without data."""

from collections.abc import Callable

import pytest
import torch
import torch.ao.quantization as tq
from torch import Tensor, nn

import fxmap
from fxmap.forms.distill import distilled

pytestmark = pytest.mark.usefixtures("fbgemm")


class Plain(nn.Module):
    """Two convolutions with batch norms, whose statistics are far from 0 and 1, and a head."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.conv1, self.norm1, self.act1 = nn.Conv2d(3, 8, 3, bias=False), norm(8), nn.ReLU()
        self.conv2, self.norm2, self.act2 = nn.Conv2d(8, 16, 3, stride=2, bias=False), norm(16), nn.ReLU()
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, `b 5`."""
        x = self.act1(self.norm1(self.conv1(self.quant(x))))
        x = self.act2(self.norm2(self.conv2(x))).mean((2, 3))
        return self.dequant(self.head(x))


def photographs(seed: int, count: int = 32) -> Tensor:
    """Draw smooth images, far from the standard normal distribution."""
    small = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return 3 * nn.functional.interpolate(small, size=24, mode="bicubic") + 2


def grey(seed: int, count: int = 32) -> Tensor:
    """Draw smooth grey images, of which filters for edges and for colours see almost nothing."""
    small = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(2 * small - 1, size=48, mode="bilinear").expand(-1, 3, -1, -1)


def trained(images: Tensor | None = None, *, edges: bool = False) -> nn.Module:
    """Build a model that has the statistics of images; with `edges`, every other filter sees only differences."""
    torch.manual_seed(0)
    model = Plain()
    for norm in (model.norm1, model.norm2):
        norm.momentum = None  # type: ignore[assignment]
    with torch.no_grad():
        if edges:
            model.conv1.weight[::2] -= model.conv1.weight[::2].mean((1, 2, 3), keepdim=True)
        model.train()(photographs(1, 128) if images is None else images)
    return model.eval()


def converted(batches: Tensor) -> nn.Module:
    model = Plain().eval()
    tq.fuse_modules(model, [["conv1", "norm1", "act1"], ["conv2", "norm2", "act2"]], inplace=True)
    vars(model)["qconfig"] = tq.QConfig(activation=tq.default_observer, weight=tq.default_per_channel_weight_observer)
    tq.prepare(model, inplace=True)
    with torch.no_grad():
        model(batches)
    return tq.convert(model)


def test_images_drive_the_model_as_the_training_images_did() -> None:
    src = trained()
    held_out = photographs(3)
    noise = 0.01 * torch.randn(16, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    ratios = {}
    for calibration in ("keep", "distilled"):
        dst = converted(noise)
        mapping = fxmap.transfer(src, dst, calibration=calibration, example_inputs=held_out[:1], verify=False)
        with torch.no_grad():
            ratios[calibration] = fxmap.sqnr(src(held_out), dst(held_out))
    assert ratios["keep"] < 10
    assert ratios["distilled"] > 18
    assert "32 images of 3x24x24 were distilled" in str(mapping)


def test_statistics_match_and_nothing_else_changes() -> None:
    src = trained()
    before = {key: value.clone() for key, value in src.state_dict().items()}
    state = torch.get_rng_state()
    (images,) = distilled(src, dict(src.state_dict()), photographs(1)[:1], steps=60)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in src.state_dict().items())
    with torch.no_grad():
        maps = src.conv1(images)
    error = (maps.mean((0, 2, 3)) - src.norm1.running_mean).abs() / src.norm1.running_var.sqrt()
    assert float(error.max()) < 0.2
    assert not src.norm1._forward_pre_hooks


def test_filters_that_see_almost_nothing_of_real_images_are_not_driven_harder_by_distilled_ones() -> None:
    src, held_out = trained(grey(1, 128), edges=True), grey(3)
    assert src.norm1.running_var.max() > 500 * src.norm1.running_var.min()
    ratios = {}
    for name, calibration in (("real", [grey(2)]), ("distilled", "distilled")):
        dst = converted(photographs(5))
        fxmap.transfer(src, dst, calibration=calibration, example_inputs=held_out[:1], verify=False)
        with torch.no_grad():
            ratios[name] = fxmap.sqnr(src(held_out), dst(held_out))
    assert ratios["distilled"] > ratios["real"] - 2


def test_size_is_inferred_where_none_is_given() -> None:
    mapping = fxmap.transfer(trained(), converted(photographs(5)), calibration="distilled", verify=False)
    assert "were distilled from the statistics" in str(mapping)


def test_without_batch_norm_it_says_so_and_leaves_the_destination() -> None:
    dst = converted(photographs(5))
    before = dst.state_dict()["conv1.weight"].int_repr()
    with pytest.raises(fxmap.QuantizationError, match="no batch norm that keeps statistics"):
        fxmap.transfer(Plain(nn.Identity).eval(), dst, calibration="distilled", on_mismatch="keep", verify=False)
    assert torch.equal(dst.state_dict()["conv1.weight"].int_repr(), before)


def test_norms_without_statistics_do_not_count() -> None:
    model = Plain(lambda n: nn.BatchNorm2d(n, track_running_stats=False))
    with pytest.raises(fxmap.QuantizationError, match="no batch norm that keeps statistics"):
        distilled(model, {}, photographs(1)[:1])


def test_a_checkpoint_without_its_model_cannot_be_distilled() -> None:
    src = trained()
    # It is warned of what the destination does not read, and refused.
    with pytest.warns(fxmap.ProofWarning), pytest.raises(fxmap.FxmapError):
        fxmap.load(converted(photographs(5)), src.state_dict(), calibration="distilled", on_mismatch="keep")
