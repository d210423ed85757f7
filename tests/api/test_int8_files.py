"""An int8 state dict without its model: into float models, and into int8 models of the same or other names."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import (
    DeQuantStub,
    QuantStub,
    convert,
    fuse_modules,
    get_default_qconfig,
    prepare,
    quantize_dynamic,
)

import fxmap

pytestmark = pytest.mark.filterwarnings("ignore")

X = torch.randn(8, 3, 10, 10, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, names: tuple[str, ...] = ("conv", "norm", "second", "fc"), bias: bool = True) -> None:
        super().__init__()
        self.names = names
        self.quant, self.dequant, self.relu, self.relu2 = QuantStub(), DeQuantStub(), nn.ReLU(), nn.ReLU()
        layers = (nn.Conv2d(3, 8, 3, bias=bias), nn.BatchNorm2d(8, eps=1e-3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4))
        for name, layer in zip(names, layers, strict=True):
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, second, fc = (self.get_submodule(name) for name in self.names)
        x = self.relu(norm(conv(self.quant(x))))
        y: Tensor = self.dequant(fc(self.relu2(second(x)).mean((2, 3))))
        return y


OTHER = ("stem", "stem_norm", "middle", "classifier")


def net(seed: int, *args: Any) -> Net:
    torch.manual_seed(seed)
    model = Net(*args)
    norm = model.get_submodule(model.names[1])
    assert isinstance(norm, nn.BatchNorm2d)
    for value in (norm.weight.data, norm.running_var):
        assert value is not None
        value.uniform_(0.5, 1.5)
    return model.eval()


def int8(model: Net, data: Tensor = X[:1] * 0) -> nn.Module:
    torch.backends.quantized.engine = "fbgemm"
    conv, norm, second, _ = model.names
    made = fuse_modules(copy.deepcopy(model), [[conv, norm, "relu"], [second, "relu2"]])
    made.qconfig = get_default_qconfig("fbgemm")
    prepare(made, inplace=True)
    made(data)
    return convert(made)


@pytest.fixture(autouse=True)
def _engine() -> Any:
    before = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = before


def error(model: nn.Module, other: nn.Module) -> float:
    with torch.no_grad():
        return float((model(X) - other(X)).abs().max() / other(X).abs().max())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("names", [Net().names, OTHER])
def test_a_float_model_takes_the_dequantized_weights_and_a_norm_that_changes_nothing(
    bias: bool, names: tuple[str, ...]
) -> None:
    src = int8(net(0, Net().names, bias), X)
    dst = net(1, names, bias)
    mapping = fxmap.load(dst, src.state_dict())
    assert error(dst, src) < 0.1
    assert not mapping.missing
    assert fxmap.KeyMapping.from_json(mapping.to_json()) == mapping


@pytest.mark.parametrize("names", [Net().names, OTHER])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_int8_model_takes_integers_and_ranges_also_without_metadata(names: tuple[str, ...], prefix: str) -> None:
    src = int8(net(0), X)
    dst = int8(net(1, names))
    fxmap.load(dst, {prefix + key: value for key, value in src.state_dict().items()})
    assert error(dst, src) == 0.0


def test_a_float_file_has_no_ranges_and_the_message_says_so() -> None:
    with pytest.raises(fxmap.LoadError, match="a range of activations of an int8 destination"):
        fxmap.load(int8(net(1)), net(0).state_dict())


def test_dynamic_layers_are_dequantized() -> None:
    src = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    dst = copy.deepcopy(src)
    for layer in (dst[0], dst[2]):
        nn.init.zeros_(layer.get_parameter("weight"))
    fxmap.load(dst, quantize_dynamic(src, {nn.Linear}).state_dict())
    x = torch.randn(5, 6)
    assert float((dst(x) - src(x)).detach().abs().max()) < 0.05


class Recurrent(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.LSTM(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule(self.name)(x)[0]
        return y


@pytest.mark.parametrize("name", ["lstm", "rnn"])
def test_packed_recurrent_layers_are_taken_as_they_are(name: str) -> None:
    torch.manual_seed(0)
    src, dst = (quantize_dynamic(Recurrent(one), {nn.LSTM}) for one in ("lstm", name))
    fxmap.load(dst, src.state_dict())
    x = torch.randn(4, 2, 6)
    assert torch.equal(dst(x), src(x))
