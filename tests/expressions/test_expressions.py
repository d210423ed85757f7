"""Expressions: values, JSON, Python, and what is refused."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import fxmap
from fxmap.expressions.arithmetic import (
    Centred,
    Difference,
    FoldedBias,
    FoldedWeight,
    Full,
    IdentityKernel,
    NeutralVariance,
    Number,
    Product,
    RowScaled,
    Scaled,
    Shifted,
    Size,
    Sum,
    WeightNormed,
)
from fxmap.expressions.base import Expression, Source, substitute
from fxmap.expressions.computed import Computed, Stretch
from fxmap.expressions.functions import assemble, complement
from fxmap.expressions.layout import Columns, Concat, Gather, Permute, Placed, Reshape, Slice, Transpose
from fxmap.expressions.quantized import (
    Assembled,
    Dequantized,
    DequantizedParts,
    Packed,
    PackedObject,
    Quantized,
    QuantizedPart,
    Requantized,
    Unpacked,
)
from fxmap.expressions.scheme import Scheme, is_narrow
from fxmap.expressions.serial import KINDS, parse
from fxmap.expressions.simplify import simplify
from fxmap.expressions.stored import Awq, BlockScaled, Gptq, LookedUp, SpectralNormed, Times
from fxmap.testing.compare import same_value
from fxmap.testing.planted import randomised

A, B = Source("a"), Source("b")
SCHEME = Scheme("qint8", "per_channel_symmetric", 0, -128, 127)
ALL = [
    A,
    Full((2, 3), 0.5, A),
    Number((1,), 7),
    Number((), 0.5),
    NeutralVariance((4,), 1e-3, A),
    Shifted(A, 1e-3),
    Difference(A, B),
    Scaled(A, 0.5),
    Sum((A, B)),
    FoldedWeight("conv", A, B, 1e-5, A),
    FoldedWeight("linear", A, B, 1e-5),
    FoldedBias("conv_transpose", A, B, 1e-5, A, B, A),
    FoldedBias("conv", A, B, 1e-5),
    RowScaled(A, B),
    Centred(A, (3, 3)),
    IdentityKernel((2, 2, 3, 3), 1, A),
    Product(A, B),
    WeightNormed(A, B, 0),
    Size(A, 0),
    Quantized(A, SCHEME),
    Requantized(A, SCHEME),
    Requantized(Assembled(A, B, Number((4,), 0), SCHEME), SCHEME),
    Assembled(A, B, B, SCHEME),
    Dequantized(A),
    QuantizedPart(Quantized(A, SCHEME), "integers"),
    DequantizedParts(A, B, B, 0),
    Packed(Quantized(A, SCHEME), B),
    Packed(A),
    PackedObject("cell", (Quantized(A, SCHEME), Quantized(B, SCHEME), A, B)),
    Computed((A, B), '[["aten.mul.Tensor", [{"value": 0}, {"value": 1}], {}]]'),
    Stretch((A,), '[["aten.mm.default", [{"value": 0}, {"value": 1}], {}]]', ((1, 2),), (0, 1), (0,)),
    Unpacked(A, 1),
    Slice(A, 1, 3),
    Gather(A, (2, 0)),
    Columns(A, (1, 0)),
    Placed(A, (1, 3), 5),
    Concat((A, Slice(B, 0, 1))),
    Reshape(A, (2, 3, 1, 1)),
    Transpose(A),
    Permute(A, (1, 0)),
    Times(A, B),
    SpectralNormed(A, B, B, 1),
    BlockScaled(A, B),
    BlockScaled(A, B, (128, 128), A),
    LookedUp(A, B, A, 4, 64, (2, 3)),
    Gptq(A, B, A, 4, 1, B),
    Gptq(A, B, A, 4, 0),
    Awq(A, B, A, 4),
]


def test_every_kind_is_covered() -> None:
    assert {type(expression) for expression in ALL} == set(KINDS.values())


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("rounded", [True, False])
def test_quantized_weights_are_taken_as_they_are_where_the_scheme_is_theirs(axis: int | None, rounded: bool) -> None:
    kind = "per_tensor_symmetric" if axis is None else "per_channel_symmetric"
    scheme = Scheme("qint8", kind, axis or 0, -128, 127)
    # Not what an observer makes of it: a fake-quantized weight has another scale.
    value = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) * 0.7
    value[0, 0] = -9.0  # a channel that the scale cuts off
    channels = [value.shape[axis]] if axis is not None else [1]
    scale, zero_point = torch.full(channels, 0.01), torch.zeros(channels, dtype=torch.int32)
    held = assemble(value, scale, zero_point, scheme.to_json())
    state = {"a": value if rounded else held.int_repr(), "scale": scale, "zero": zero_point, "held": held}
    parts = Assembled(A, Source("scale"), Source("zero"), scheme)
    assert same_value(parts.evaluate(state), held)
    for expression in (Requantized(parts, scheme), Requantized(Source("held"), scheme)):
        assert same_value(expression.evaluate(state), held)
        assert same_value(_run_python(expression, state), held)
    for other in (
        Scheme("qint8", kind, axis or 0, -127, 127),  # which has no -128
        Scheme("qint8", "per_channel_symmetric" if axis is None else "per_tensor_symmetric", 0, -128, 127),
    ):
        made = Requantized(Source("held"), other)
        assert same_value(made.evaluate(state), other.quantize(held.dequantize()))
        assert same_value(_run_python(made, state), other.quantize(held.dequantize()))


def _run_python(expression: Expression, state: dict[str, Any]) -> Any:
    namespace: dict[str, Any] = {}
    exec(fxmap.KeyMapping({"made": expression}).to_python(), namespace)
    return namespace["convert"](state)["made"]


@pytest.mark.parametrize("expression", ALL, ids=str)
def test_json_round_trip(expression: Expression) -> None:
    assert parse(json.loads(json.dumps(expression.to_json()))) == expression


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "a",
        {"op": "rm"},
        {"op": ["source"]},
        {"op": "source"},
        {"op": "source", "key": 3},
        {"op": "shifted", "of": {"op": "source", "key": "a"}, "amount": 10**400},
        {"op": "slice", "of": {"op": "source", "key": "a"}, "start": 0, "stop": 2**63},
        {"op": "source", "key": "a", "value": 1},
        {"op": "shifted", "of": {"op": "source", "key": "a"}, "amount": True},
        {"op": "packed_object", "kind": "box", "parts": [{"op": "source", "key": "a"}]},
        {"op": "full", "shape": ["x"], "value": 0, "like": {"op": "source", "key": "a"}},
        {"op": "quantized", "of": {"op": "source", "key": "a"}, "scheme": {}},
        {"op": "quantized_part", "of": {"op": "source", "key": "a"}, "part": "rm"},
        {"op": "quantized", "of": {"op": "source", "key": "a"}, "scheme": SCHEME.to_json() | {"dtype": "load"}},
        {"op": "quantized", "of": {"op": "source", "key": "a"}, "scheme": SCHEME.to_json() | {"axis": "0"}},
        {"op": "quantized", "of": {"op": "source", "key": "a"}, "scheme": SCHEME.to_json() | {"qscheme": "strided"}},
    ],
)
def test_malformed_json_is_refused(data: object) -> None:
    with pytest.raises(fxmap.MappingError):
        parse(data)


@pytest.mark.parametrize("qscheme", ["per_channel_symmetric", "per_tensor_symmetric"])
def test_parts_of_a_quantized_tensor_give_its_value(qscheme: str) -> None:
    scheme = Scheme("qint8", qscheme, 0, -127, 127)
    state: dict[str, Any] = {"a": torch.randn(3, 4)}
    whole = Quantized(A, scheme)
    for part in ("integers", "scales", "zero_points"):
        state[part] = QuantizedPart(whole, part).evaluate(state)
    axis = 0 if scheme.per_channel else -1
    back = DequantizedParts(Source("integers"), Source("scales"), Source("zero_points"), axis)
    expected = whole.evaluate(state).dequantize()
    assert torch.equal(back.evaluate(state), expected)
    python = fxmap.KeyMapping({"b": back, "c": QuantizedPart(whole, "integers")}).to_python()
    namespace: dict[str, Any] = {}
    exec(python, namespace)
    assert torch.equal(namespace["convert"](state)["b"], expected)
    assert torch.equal(namespace["convert"](state)["c"], state["integers"])


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_folding_is_bit_equal_to_torch(dims: int, bias: bool, transposed: bool) -> None:
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
    conv, norm = kind(3, 6, 3, bias=bias), getattr(nn, f"BatchNorm{dims}d")(6)
    model = randomised(nn.Sequential(conv, norm), 0).eval()
    expected = fuse_conv_bn_eval(conv, norm, transposed)
    _check_fold("conv_transpose" if transposed else "conv", model, norm.eps, bias, expected)


@pytest.mark.parametrize("bias", [True, False])
def test_folding_into_a_linear_layer_is_bit_equal_to_torch(bias: bool) -> None:
    linear, norm = nn.Linear(3, 6, bias=bias), nn.BatchNorm1d(6)
    model = randomised(nn.Sequential(linear, norm), 0).eval()
    _check_fold("linear", model, norm.eps, bias, fuse_linear_bn_eval(linear, norm))


def _check_fold(layer: str, model: nn.Module, eps: float, bias: bool, expected: nn.Module) -> None:
    state = model.state_dict()
    mean, var, gamma, beta = (Source(f"1.{name}") for name in ("running_mean", "running_var", "weight", "bias"))
    weight = FoldedWeight(layer, Source("0.weight"), var, eps, gamma)
    folded = FoldedBias(layer, mean, var, eps, Source("0.bias") if bias else None, gamma, beta)
    for expression, name in ((weight, "weight"), (folded, "bias")):
        value = expression.evaluate(state)
        assert torch.equal(value, getattr(expected, name))
        assert not value.requires_grad


@given(eps=st.floats(1e-9, 0.5))
def test_neutral_variance_is_exact_wherever_it_can_be(eps: float) -> None:
    one = torch.ones(())
    var = torch.tensor(complement(eps, torch.float32))
    assert float(var + eps) == 1.0
    assert abs(float(var) - (1 - eps)) < 1e-6
    assert one == 1


def test_a_missing_source_key_is_named() -> None:
    with pytest.raises(fxmap.MappingError, match=r"bn\.weight: not in the source state dict, which has 1 keys"):
        Source("bn.weight").evaluate({"other": torch.ones(1)})


def test_without_quantization_only_the_float_function_is_left() -> None:
    weight = torch.randn(4, 3)
    expression = Dequantized(Quantized(A, SCHEME))
    assert torch.equal(expression.evaluate({"a": weight}, quantized=False), weight)
    assert not torch.equal(expression.evaluate({"a": weight}), weight)


def test_evaluation_leaves_its_arguments_alone() -> None:
    state = {"a": torch.rand(4, 4) + 1, "b": torch.rand(4) + 1}
    before = {key: value.clone() for key, value in state.items()}
    for expression in (
        FoldedWeight("linear", A, B, 1e-5),
        FoldedBias("linear", B, B, 1e-5),
        Quantized(A, SCHEME),
        Shifted(A, 1),
    ):
        expression.evaluate(state)
    assert all(torch.equal(before[key], state[key]) for key in state)


def test_substitute_reaches_every_leaf() -> None:
    expression = FoldedBias("conv", A, B, 1e-5, A, B, A)
    assert set(substitute(expression, {"a": Source("c"), "b": Shifted(Source("d"), 1)}).sources()) == {"c", "d"}


@pytest.mark.parametrize("per_channel", [True, False])
def test_quantizing_equals_torchs_observer(per_channel: bool) -> None:
    from torch.ao.nn.quantized.modules.utils import _quantize_weight
    from torch.ao.quantization import default_per_channel_weight_observer, default_weight_observer

    weight = torch.randn(8, 3, 3, 3)
    observer = (default_per_channel_weight_observer if per_channel else default_weight_observer)()
    observer(weight)
    expected = _quantize_weight(weight, observer)
    scheme = Scheme.of(expected)
    assert scheme.per_channel == per_channel
    assert torch.equal(scheme.quantize(weight).int_repr(), expected.int_repr())
    assert torch.equal(scheme.quantize(weight).dequantize(), expected.dequantize())


def test_a_refused_scheme_names_itself() -> None:
    with pytest.raises(fxmap.QuantizationError, match=r"axis 7.*shape \(2, 2\)"):
        Scheme("qint8", "per_channel_symmetric", 7, -128, 127).quantize(torch.ones(2, 2))


@pytest.mark.parametrize("lowest", [-128, -127])
def test_the_range_of_integers_is_read_off_the_weights(lowest: int) -> None:
    torch.manual_seed(0)
    scheme = Scheme("qint8", "per_channel_symmetric", 0, lowest, 127)
    weights = [scheme.quantize(torch.randn(64, 8)) for _ in range(3)]
    assert is_narrow(weights) == (lowest == -127)
    assert not is_narrow([])


def test_rows_of_one_tensor_that_are_taken_apart_and_put_back_are_the_tensor() -> None:
    shapes = {"a": (6, 2)}
    parts = Concat((Gather(Source("a"), (0, 3)), Gather(Source("a"), (1, 4)), Gather(Source("a"), (2, 5))))
    assert simplify(Gather(parts, (0, 2, 4, 1, 3, 5)), shapes) == Source("a")
    assert simplify(Gather(parts, (0, 2, 4)), shapes) == Slice(Source("a"), 0, 3)
    assert simplify(Gather(parts, (5, 0)), shapes) == Gather(Source("a"), (5, 0))
