"""Weights that are tensor subclasses: torchao's quantize_, its QAT, and back."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.expressions.functions import is_wrapped
from fxmap.expressions.wrapped import quantize_as
from fxmap.mapping.proof import Status

quantization = pytest.importorskip("torchao.quantization")
qat = pytest.importorskip("torchao.quantization.qat")


class Block(nn.Module):
    """A linear layer whose source has a joined projection, and an activation."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.joined = joined
        if joined:
            self.both = nn.Linear(32, 64)
        else:
            self.left, self.right = nn.Linear(32, 32), nn.Linear(32, 32)
        self.out = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        """Return `b 32`."""
        left, right = self.both(x).chunk(2, -1) if self.joined else (self.left(x), self.right(x))
        return self.out(left * right.sigmoid())


def config(name: str) -> Any:
    group = quantization.PerGroup(32)
    configs: dict[str, Callable[[], Any]] = {
        "int8 weight only": quantization.Int8WeightOnlyConfig,
        "int8 per tensor": lambda: quantization.Int8WeightOnlyConfig(granularity=quantization.PerTensor()),
        "int8 dynamic": quantization.Int8DynamicActivationInt8WeightConfig,
        "float8 weight only": quantization.Float8WeightOnlyConfig,
        "int4 weight only": lambda: quantization.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=group),  # type: ignore[attr-defined]
        "int8 asymmetric": lambda: quantization.IntxWeightOnlyConfig(mapping_type=quantization.MappingType.ASYMMETRIC),
        "int8 dynamic, int4": lambda: quantization.Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4,  # type: ignore[attr-defined]
            weight_granularity=group,
        ),
    }
    return configs[name]()


NAMES = ["int8 weight only", "int8 per tensor", "int8 dynamic", "float8 weight only"]
NAMES += ["int4 weight only", "int8 asymmetric", "int8 dynamic, int4"]


def block(seed: int, *, joined: bool = False, name: str = "") -> nn.Module:
    torch.manual_seed(seed)
    model = Block(joined).eval()
    if name:
        quantization.quantize_(model, config(name))
    return model


def same(a: Any, b: Any) -> bool:
    if not is_wrapped(a):
        return torch.equal(a, b)
    return type(a) is type(b) and torch.equal(a.qdata, b.qdata) and torch.equal(a.scale, b.scale)


INPUTS = torch.randn(4, 32, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_loading_first_and_quantizing_then(name: str) -> None:
    src, reference, dst = block(1), block(1, name=name), block(2, name=name)
    mapping = fxmap.transfer(src, dst)
    assert mapping.knowledge.stages[1] == "torchao, quantized weights"
    assert mapping.proof.ok
    assert set(mapping.knowledge.statuses.values()) == {Status.PROVEN}
    state, expected = dst.state_dict(), reference.state_dict()
    assert all(same(value, expected[key]) for key, value in state.items())
    assert torch.equal(dst(INPUTS), reference(INPUTS))


@pytest.mark.parametrize("name", ["int8 weight only", "int8 dynamic"])
def test_split_projections_and_assignment_keep_the_quantization(name: str) -> None:
    src, dst = block(1, joined=True), block(2, name=name)
    mapping = fxmap.auto_map(src, dst, verify=False)
    assert str(mapping["left.weight"]) == "both.weight[0:32]"
    assert not is_wrapped(mapping.apply(src.state_dict())["left.weight"])
    full = mapping.apply(src.state_dict(), like=dst.state_dict())
    dst.load_state_dict(full, assign=True)
    assert is_wrapped(dst.left.weight)
    assert fxmap.sqnr(src(INPUTS), dst(INPUTS)) > 25


def test_a_plain_weight_is_never_written_in_the_place_of_a_quantized_one() -> None:
    src, dst = block(1), block(2, name="int8 weight only")
    mapping = fxmap.auto_map(src, dst, verify=False)
    before = dst(INPUTS)
    with pytest.raises(fxmap.LoadError, match=r"left.weight: source Tensor, destination Int8Tensor"):
        mapping.write(dst, src.state_dict())
    assert torch.equal(dst(INPUTS), before)


@pytest.mark.parametrize("name", NAMES)
def test_back_to_float_and_between_equal_forms(name: str) -> None:
    src, back, other = block(1, name=name), block(2), block(3, name=name)
    fxmap.transfer(src, back)
    assert torch.equal(back.get_parameter("left.weight"), src.get_parameter("left.weight").dequantize())
    fxmap.transfer(src, other, verify=False)
    assert all(same(value, src.state_dict()[key]) for key, value in other.state_dict().items())


def test_from_one_form_into_another() -> None:
    src, dst = block(1, name="int8 weight only"), block(2, name="int4 weight only")
    fxmap.transfer(src, dst, verify=False)
    assert same(dst.state_dict()["out.weight"], quantize_as(dst.out.weight, src.out.weight.dequantize()))


def test_qat_is_filled_and_read_back() -> None:
    base = quantization.Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int4,  # type: ignore[attr-defined]
        weight_granularity=quantization.PerGroup(32),
    )
    src, dst, back = block(1), block(2), block(3)
    quantization.quantize_(dst, qat.QATConfig(base, step="prepare"))
    mapping = fxmap.transfer(src, dst)
    assert mapping.knowledge.stages[1] == "torchao, prepared for QAT"
    assert mapping.proof.ok
    fxmap.transfer(dst, back, verify=False)
    assert all(torch.equal(value, src.state_dict()[key]) for key, value in back.state_dict().items())


def test_a_class_that_does_not_tell_how_it_quantizes_is_refused() -> None:
    class Opaque(Tensor):
        def dequantize(self) -> Tensor:
            return self.as_subclass(Tensor)

    with pytest.raises(fxmap.QuantizationError, match="does not tell how it was quantized"):
        quantize_as(torch.zeros(2, 2).as_subclass(Opaque), torch.zeros(2, 2))


def test_layers_of_optimum_quanto_are_refused_by_name() -> None:
    class QLinear(nn.Linear):
        """What that package makes of a linear layer."""

    QLinear.__module__ = "optimum.quanto.nn.qlinear"
    quantized, plain = nn.Sequential(QLinear(4, 4)), nn.Sequential(nn.Linear(4, 4))
    for src, dst in ((plain, quantized), (quantized, plain)):
        with pytest.raises(fxmap.QuantizationError, match=r"0 is a QLinear of optimum-quanto, .* quantize and freeze that"):
            fxmap.transfer(src, dst)
