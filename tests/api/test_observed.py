"""Sources that were trained with fake quantization, or that have observers: an int8 destination gets their ranges."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.ao.quantization as tq
from torch import Tensor, nn
from torch.ao.quantization import quantize_fx

import fxmap
from fxmap.testing.compare import same_value

pytestmark = pytest.mark.usefixtures("fbgemm", "quiet")


class Small(nn.Module):
    """Two convolutions, one with a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.first, self.norm, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.second, self.act, self.head = nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(self.quant(x))))
        result: Tensor = self.dequant(self.head(self.act(self.second(x)).mean((2, 3))))
        return result


def _eager() -> nn.Module:
    model = Small().train()
    tq.fuse_modules_qat(model, [["first", "norm", "relu"], ["second", "act"]], inplace=True)
    model.qconfig = tq.get_default_qat_qconfig("fbgemm")
    prepared: nn.Module = tq.prepare_qat(model)
    return prepared


def _graph() -> nn.Module:
    prepared: nn.Module = quantize_fx.prepare_qat_fx(
        Small().train(), tq.get_default_qat_qconfig_mapping("fbgemm"), (torch.randn(1, 3, 8, 8),)
    )
    return prepared


def _calibrated() -> nn.Module:
    prepared: nn.Module = quantize_fx.prepare_fx(
        Small().eval(), tq.get_default_qconfig_mapping("fbgemm"), (torch.randn(1, 3, 8, 8),)
    )
    return prepared


WAYS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], nn.Module]]] = {
    "eager QAT": (_eager, tq.convert),
    "QAT of FX mode": (_graph, quantize_fx.convert_fx),
    "observers of FX mode": (_calibrated, quantize_fx.convert_fx),
}


@cache
def _trained(way: str, seed: int, scale: float = 1.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WAYS[way][0]()
        for _ in range(3):
            model(scale * torch.randn(4, 3, 8, 8))
    return model.eval()


def _int8(way: str, seed: int, scale: float = 1.0) -> nn.Module:
    return WAYS[way][1](copy.deepcopy(_trained(way, seed, scale)))


def _equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(same_value(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("way", WAYS)
def test_a_trained_source_gives_its_ranges_bit_for_bit_as_convert_does(way: str) -> None:
    dst, reference = _int8(way, 2, scale=3.0), _int8(way, 1)
    assert not _equal(dst, reference)
    mapping = fxmap.transfer(_trained(way, 1), dst, example_inputs=torch.randn(2, 3, 8, 8))
    assert mapping.proof.ok, str(mapping)
    assert "converted to int8 first" in str(mapping)
    assert _equal(dst, reference)


@pytest.mark.parametrize("way", ["eager QAT", "QAT of FX mode"])
def test_its_checkpoint_does_so_too(way: str, tmp_path: Path) -> None:
    torch.save({"state_dict": _trained(way, 1).state_dict()}, tmp_path / "qat.pth")
    dst, src = _int8(way, 2, scale=3.0), WAYS[way][0]()
    fxmap.load(dst, tmp_path / "qat.pth", src=src, example_inputs=torch.randn(2, 3, 8, 8))
    assert _equal(dst, _int8(way, 1))


def test_its_checkpoint_without_the_model_is_called_by_its_name() -> None:
    with pytest.raises(fxmap.LoadError, match=r"prepared for quantization \(QAT, or observers\).*Give the prepared model"):
        fxmap.load(_int8("eager QAT", 2), _trained("eager QAT", 1).state_dict())


def test_observers_that_have_seen_nothing_give_nothing() -> None:
    with pytest.raises(fxmap.MissingCalibration):
        fxmap.transfer(_calibrated(), _int8("observers of FX mode", 1))


def test_a_checkpoint_of_another_model_is_refused() -> None:
    state = dict(_trained("eager QAT", 1).state_dict())
    del state["head.bias"]
    with pytest.raises(fxmap.LoadError, match=r"head\.bias: not a key of both the file and src"):
        fxmap.load(_int8("eager QAT", 2), state, src=_eager())
