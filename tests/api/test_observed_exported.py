"""A PT2E model that was trained with fake quantization, and its checkpoint: an int8 destination gets their ranges."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxmap

pytest.importorskip("torchao")

# Preparing an exported graph for QAT takes torchao many seconds.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet")]


class Small(nn.Module):
    """A convolution with its norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.relu(self.norm(self.first(x))).mean((2, 3)))
        return result


@cache
def _prepared() -> nn.Module:
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.testing.pt2e import _xnnpack_quantizer as xnnpack

    exported = torch.export.export(Small().train(), (torch.randn(4, 3, 8, 8),), strict=True).module()
    quantizer = xnnpack.XNNPACKQuantizer().set_global(xnnpack.get_symmetric_quantization_config(is_qat=True))
    prepared: nn.Module = prepare_qat_pt2e(exported, quantizer)
    return prepared


@cache
def _trained(scale: float, steps: int = 2) -> nn.Module:
    from torchao.quantization.pt2e import move_exported_model_to_eval

    model = copy.deepcopy(_prepared())
    for _ in range(steps):
        model(scale * torch.randn(4, 3, 8, 8))
    moved: nn.Module = move_exported_model_to_eval(model)
    return moved


def _int8(scale: float) -> fx.GraphModule:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    made: fx.GraphModule = convert_pt2e(copy.deepcopy(_trained(scale)))
    return made


def _ranges(model: fx.GraphModule) -> list[tuple[Any, ...]]:
    return [node.args[1:] for node in model.graph.nodes if "quantize_per_tensor" in str(node.target)]


@pytest.mark.parametrize("way", ["model", "checkpoint"])
def test_a_trained_source_gives_its_ranges_as_convert_does(way: str, tmp_path: Path) -> None:
    dst, reference, x = _int8(3.0), _int8(1.0), torch.randn(4, 3, 8, 8)
    assert _ranges(dst) != _ranges(reference)
    if way == "model":
        fxmap.transfer(_trained(1.0), dst, example_inputs=x, verify=False)
    else:
        torch.save(_trained(1.0).state_dict(), tmp_path / "qat.pth")
        fxmap.load(dst, tmp_path / "qat.pth", src=_trained(1.0, steps=0), example_inputs=x, verify=False)
    assert _ranges(dst) == _ranges(reference)
    with torch.no_grad():
        assert torch.equal(dst(x), reference(x))


def test_its_checkpoint_alone_is_called_by_its_name() -> None:
    with pytest.raises(fxmap.LoadError, match="prepared for quantization"):
        fxmap.load(_int8(3.0), _trained(1.0).state_dict())
