"""Products that are recalled are those that would be computed, whatever the models write to, and where."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxmap.model.kernels import DoubleKernels
from fxmap.model.recall import Recall, active, recalling, up_to_rounding


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


def _active() -> Recall:
    recall = active()
    assert recall is not None
    return recall


WEIGHT = _normal(256, 256)


@pytest.mark.parametrize("product", [F.linear, torch.matmul, torch.mm, lambda x, w: x @ w, Tensor.matmul])
def test_one_product_is_computed_once(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    x, weight = _normal(8, 256), WEIGHT.clone()
    with DoubleKernels(), recalling([weight]):
        one, other = product(x, weight), product(x.clone(), weight)
        assert _active().hits == 1
    assert torch.equal(one, other)
    assert active() is None


def test_a_convolution_is_recalled_with_the_same_options_alone() -> None:
    x, weight = _normal(2, 64, 8, 8), _normal(64, 64, 3, 3)
    with DoubleKernels(), recalling([weight]):
        F.conv2d(x, weight, padding=1)
        F.conv2d(x, weight, padding=1, stride=2)
        assert _active().hits == 0
        assert torch.equal(F.conv2d(x, weight, padding=1), F.conv2d(x, weight, None, 1, 1))
        assert _active().hits == 1


@pytest.mark.parametrize("change", [lambda x: x + 2**-60, lambda x: -x, lambda x: x.T, lambda x: x[:7]])
def test_other_numbers_are_multiplied_anew(change: Callable[[Tensor], Tensor]) -> None:
    x, weight = torch.zeros(256, 256, dtype=torch.float64), WEIGHT.clone()
    x[0, 1] = 1.0
    with DoubleKernels(), recalling([weight]):
        F.linear(x, weight)
        other = F.linear(change(x), weight)
        assert _active().hits == 0
    assert torch.allclose(other, change(x) @ weight.T)


def test_another_weight_of_the_same_shape_is_another_product() -> None:
    x, one, other = _normal(8, 256), WEIGHT.clone(), WEIGHT + 1
    with DoubleKernels(), recalling([one, other]):
        assert not torch.equal(F.linear(x, one), F.linear(x, other))
        # A part of a weight lies elsewhere, and what is no weight is not known.
        assert torch.equal(F.linear(x, one[128:]), F.linear(x, one[128:].clone()))
        assert _active().hits == 0


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.mul_(2),
        lambda w: w.data.mul_(2),
        lambda w: w.__setitem__(0, 7.0),
        nn.init.ones_,
        lambda w: torch.ops.aten.mul_.Tensor(w, torch.tensor(2.0)),
        lambda w: torch._foreach_mul_([w], 2.0),
        lambda w: w.numpy().fill(2.0),
        lambda w: F.embedding(torch.tensor([0]), w, None, 0.1),
        lambda w: w.__imul__(2),
        nn.init.normal_,
        lambda w: torch.add(w, 1, out=w),
        lambda w: w[:3].copy_(w[3:6]),
    ],
)
def test_a_weight_that_was_written_to_is_multiplied_anew(write: Callable[[Tensor], object]) -> None:
    x, weight = _normal(8, 256), WEIGHT.clone()
    with torch.no_grad(), DoubleKernels(), recalling([weight]):
        F.linear(x, weight)
        write(weight)
        assert torch.equal(F.linear(x, weight), x @ weight.T)
        assert _active().hits == 0


def test_what_a_model_writes_into_a_product_or_its_operand_is_not_recalled() -> None:
    x, weight = _normal(8, 256), WEIGHT.clone()
    expected = F.linear(x, weight)
    with DoubleKernels(), recalling([weight]):
        for given in (x.clone(), x.clone(), x.clone()):
            found = F.linear(given, weight)
            assert torch.equal(found, expected)
            found.zero_()
            given.data.zero_()
        assert _active().hits == 2


def test_a_product_with_gradients_is_not_recalled() -> None:
    x, weight = _normal(8, 256), WEIGHT.clone()
    with DoubleKernels(), recalling([weight]):
        F.linear(x, weight)
        F.linear(x.requires_grad_(), weight).sum().backward()
    assert x.grad is not None


def test_products_of_earlier_runs_make_room() -> None:
    weight = WEIGHT.clone()
    with DoubleKernels(), recalling([weight]):
        recall = _active()
        inputs = [_normal(32, 256) + run for run in range(9)]
        for x in inputs:
            F.linear(x, weight)
        F.linear(inputs[-1], weight)
        assert recall.hits == 0  # in one run, what came first is kept
        recall.next_run()
        for x in (inputs[-1], inputs[-1], inputs[0]):
            F.linear(x, weight)
        assert recall.hits == 1  # the first one had to go


def test_weights_that_are_small_or_not_in_memory_are_not_recalled() -> None:
    with recalling([torch.zeros(2, 2, dtype=torch.float64), torch.zeros(512, 512, device="meta")]):
        assert active() is None


def test_operands_that_differ_by_rounding_are_the_same_where_that_is_asked_for() -> None:
    x, weight = _normal(8, 256), WEIGHT.clone()
    with DoubleKernels(), recalling([weight]):
        F.linear(x, weight)
        with up_to_rounding():
            F.linear(x * (1 + 1e-15), weight)
            assert _active().hits == 1
            F.linear(x * (1 + 1e-13), weight)
            assert _active().hits == 1
        F.linear(x * (1 - 1e-15), weight)
        assert _active().hits == 1
    with up_to_rounding():
        assert active() is None


def test_products_inside_vmap_and_torch_func_are_left_to_torch() -> None:
    x, weight = _normal(3, 8, 256), WEIGHT.clone()
    with torch.no_grad(), DoubleKernels(), recalling([weight]):
        found = torch.vmap(lambda row: F.linear(row.mul_(1.0), weight))(x.clone())
        slope = torch.func.grad(lambda row: F.linear(row, weight).sum())(x[0])
        assert _active().hits == 0
    assert torch.allclose(found, F.linear(x, weight))
    assert torch.allclose(slope, weight.sum(0).expand(8, -1))


def test_a_weight_whose_memory_was_exchanged_is_another_one() -> None:
    x, weight = _normal(8, 256), WEIGHT.clone()
    with torch.no_grad(), DoubleKernels(), recalling([weight]):
        F.linear(x, weight)
        weight.data = weight.data + 1
        for _ in range(3):
            assert torch.equal(F.linear(x, weight), x @ weight.T)
