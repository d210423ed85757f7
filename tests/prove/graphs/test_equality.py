"""Operands: the same layer in another form holds the same numbers, and a near miss does not."""

import torch
from torch import Tensor, nn

import fxmap
from fxmap.expressions.functions import fold
from fxmap.graph.opgraph import Op
from fxmap.prove.graphs.equality import effective, same_tensors

GENERATOR = torch.Generator().manual_seed(0)


def _draw(*shape: int) -> Tensor:
    return torch.rand(shape, generator=GENERATOR, dtype=torch.float64) + 0.5


NORM = {name: _draw(4) for name in ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")}
WEIGHT, BIAS = _draw(4, 3, 3, 3), _draw(4)
WITH_NORM = Op("conv", "convolution", (("norm.eps", 1e-5),))


def test_a_folded_norm_comes_to_the_same_layer() -> None:
    folded = fold(
        "conv",
        WEIGHT,
        BIAS,
        NORM["norm.running_mean"],
        NORM["norm.running_var"],
        1e-5,
        NORM["norm.weight"],
        NORM["norm.bias"],
    )
    theirs = {"weight": folded[0].detach(), "bias": folded[1].detach()}
    ours = {"weight": WEIGHT, "bias": BIAS, **NORM}
    assert same_tensors(WITH_NORM, ours, Op("conv", "convolution"), theirs) == {"weight": True, "bias": True}
    other = ours | {"norm.running_mean": NORM["norm.running_mean"] + 1e-6}
    assert same_tensors(WITH_NORM, other, Op("conv", "convolution"), theirs) == {"weight": False, "bias": False}


def test_the_tensor_that_differs_is_told_where_both_read_the_same_ones() -> None:
    ours = {"weight": WEIGHT, **NORM}
    theirs = ours | {"norm.bias": ours["norm.running_mean"]}
    found = same_tensors(WITH_NORM, ours, WITH_NORM, theirs)
    assert [argument for argument, same in found.items() if not same] == ["norm.bias"]


def test_rows_of_a_joined_layer_and_other_axes() -> None:
    joined = _draw(6, 5)
    part = Op("qkv#1", "linear", rows=(2, 3))
    assert same_tensors(part, {"weight": joined}, Op("k", "linear"), {"weight": joined[2:4]}) == {"weight": True}
    assert same_tensors(part, {"weight": joined}, Op("k", "linear"), {"weight": joined[[3, 2]]}) == {"weight": False}
    turned = Op("c_attn", "linear", (("axes", "i o"),))
    assert same_tensors(Op("k", "linear"), {"weight": joined}, turned, {"weight": joined.t()}) == {"weight": True}
    assert same_tensors(Op("k", "linear"), {"weight": joined}, Op("c", "convolution"), {"weight": joined[:, :, None, None]})


def test_what_is_no_affine_layer_has_no_effective_weight() -> None:
    assert effective(Op("norm", "layer_norm"), {"weight": _draw(4)}) is None
    assert effective(Op("up", "conv_transpose"), {"weight": _draw(4, 4, 2, 2)}) is None


def test_a_variance_in_which_another_eps_was_absorbed_is_the_same_and_other_ones_are_not() -> None:
    one, other = (Op("norm", "batch_norm", (("eps", eps),)) for eps in (1e-3, 1e-5))
    variance = torch.rand(4, dtype=torch.float64) + 0.5
    assert same_tensors(one, {"running_var": variance}, other, {"running_var": variance + (1e-3 - 1e-5)})["running_var"]
    assert not same_tensors(one, {"running_var": variance}, other, {"running_var": variance})["running_var"]


def test_an_eps_is_absorbed_in_a_norm_before_a_layer_as_behind_one() -> None:
    src, dst = (nn.Sequential(nn.BatchNorm2d(3, eps=eps), nn.ReLU(), nn.Conv2d(3, 4, 1)).eval() for eps in (1e-3, 1e-5))
    assert fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 3, 6, 6), absorb_eps=True).ok
    assert not fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 3, 6, 6)).ok
