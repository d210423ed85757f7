"""NaN, infinity and negative variances are loaded with a warning that names the key and the count, by every way."""

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import fxmap
from fxmap.errors import ProofWarning

X = torch.randn(2, 3, 6, 6)


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def _spoilt(key: str, number: float) -> dict[str, Tensor]:
    state = {name: value.clone() for name, value in _net().state_dict().items()}
    state[key].view(-1)[0] = number
    return state


@pytest.mark.parametrize(
    ("key", "number", "said"),
    [
        ("0.weight", float("nan"), "0.weight: 1 of 108 not finite"),
        ("1.bias", float("inf"), "1.bias: 1 of 4 not finite"),
        ("1.running_var", -1.0, "1.running_var: 1 of 4 below zero"),
    ],
)
@pytest.mark.parametrize("with_src", [True, False])
def test_a_number_that_no_model_can_use_is_said(key: str, number: float, said: str, with_src: bool) -> None:
    with pytest.warns(ProofWarning, match=said):
        fxmap.load(_net(), _spoilt(key, number), src=_net() if with_src else None, example_inputs=X, verify=with_src)


def test_it_is_said_of_a_lazy_file(tmp_path: Path) -> None:
    save_file(_spoilt("1.running_var", -1.0), tmp_path / "a.safetensors")
    with pytest.warns(ProofWarning, match=r"1\.running_var: 1 of 4 below zero"):
        fxmap.load(_net(), tmp_path / "a.safetensors", src=_net(), example_inputs=X)


def test_a_norm_that_would_be_folded_to_nan_is_refused() -> None:
    folded = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.warns(ProofWarning), pytest.raises(fxmap.FxmapError, match=r"1\.running_var has 1 below 0"):
        fxmap.load(folded, _spoilt("1.running_var", -1.0), src=_net(), example_inputs=X)


def test_transfer_says_it_too() -> None:
    src = _net()
    src.load_state_dict(_spoilt("0.bias", float("nan")))
    with pytest.warns(ProofWarning, match=r"0\.bias: 1 of 4 not finite"):
        fxmap.transfer(src, _net(), example_inputs=X)


def test_where_warnings_are_errors_nothing_is_written() -> None:
    dst = _net()
    before = {key: value.clone() for key, value in dst.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ProofWarning):
            fxmap.load(dst, _spoilt("0.weight", float("nan")))
    assert all(torch.equal(before[key], value) for key, value in dst.state_dict().items())


def test_a_mask_of_infinity_is_none() -> None:
    class Masked(nn.Module):
        mask: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = (self.fc(x) + self.mask).softmax(-1)
            return result

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fxmap.load(Masked(), Masked().state_dict())


@pytest.mark.parametrize("way", ["load", "transfer", "convert"])
def test_a_number_behind_a_computed_tensor_is_said_once(way: str, tmp_path: Path) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ (2 * self.weight)).relu()

    src, dst, x = Turned(), nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU()), torch.randn(2, 3)
    src.weight.data[0, 0] = float("nan")
    torch.save(src.state_dict(), tmp_path / "a.pth")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", ProofWarning)
        if way == "load":
            fxmap.load(dst, tmp_path / "a.pth", src=src, example_inputs=x, verify=False)
        elif way == "transfer":
            fxmap.transfer(src, dst, example_inputs=x, verify=False)
        else:
            fxmap.convert(tmp_path / "a.pth", tmp_path / "out", dst=dst, src=src, example_inputs=x, verify=False)
    said = [str(one.message) for one in found if "not finite" in str(one.message) or "are NaN" in str(one.message)]
    assert len(said) == 1, said
