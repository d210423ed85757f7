"""ONNX files of one library's model, loaded into another library's version of it."""

from pathlib import Path

import pytest
import torch
from torch import nn

import fxmap
from fxmap.testing.planted import randomised

pytest.importorskip("onnx")
timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision.models")


def _loaded(src: nn.Module, dst: nn.Module, size: int, path: Path) -> fxmap.KeyMapping:
    src, dst, x = randomised(src, 1).eval(), randomised(dst, 2).eval(), torch.randn(1, 3, size, size)
    with torch.no_grad():
        torch.onnx.export(src, (x,), str(path), dynamo=False)
        mapping = fxmap.load(dst, path)
        assert torch.allclose(src(x), dst(x), rtol=1e-3, atol=1e-3 * float(src(x).abs().max()))
    return mapping


@pytest.mark.filterwarnings("ignore")
def test_norms_that_an_exporter_folded_are_neutral_in_another_librarys_model(tmp_path: Path) -> None:
    src = models.resnet.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)
    dst = timm.models.resnet.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), num_classes=10)
    mapping = _loaded(src, dst, 64, tmp_path / "a.onnx")
    assert mapping.ok, mapping.proof.reason


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_rounding_that_grows_where_activations_saturate_is_no_difference(tmp_path: Path) -> None:
    src, dst = models.mobilenet_v2(num_classes=10), timm.create_model("mobilenetv2_100", num_classes=10)
    mapping = _loaded(src, dst, 64, tmp_path / "a.onnx")
    assert mapping.ok, mapping.proof.reason
