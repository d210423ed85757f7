"""Operations written out give torch's own values, in the dtypes that torch has."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxmap.model.kernels import DoubleKernels, can_part, grouped_mm


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this release of torch has no grouped_mm")
def test_products_by_group() -> None:
    x, w, ends = torch.randn(7, 16), torch.randn(3, 16, 8), torch.tensor([2, 2, 7], dtype=torch.int32)
    expected = F.grouped_mm(x, w, offs=ends)
    assert torch.allclose(grouped_mm(x, w, ends), expected, atol=1e-5)
    with DoubleKernels():
        assert torch.allclose(F.grouped_mm(x.double(), w.double(), offs=ends).float(), expected, atol=1e-5)
        assert torch.equal(F.grouped_mm(x, w, offs=ends), expected)
    assert not can_part(x, w)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_convolutions(groups: int) -> None:
    x, w = torch.randn(2, 4, 9, 9, dtype=torch.float64), torch.randn(8, 4 // groups, 3, 3, dtype=torch.float64)
    expected = F.conv2d(x, w, None, 2, 1, 1, groups)
    with DoubleKernels():
        assert torch.allclose(F.conv2d(x, w, None, 2, 1, 1, groups), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["matmul", "mm", "linear", "einsum", "tensordot", "conv1d", "attention", "addmm", "@"])
def test_operands_of_two_precisions_are_computed_in_the_higher_one(name: str) -> None:
    one, other = torch.randn(3, 3), torch.randn(3, 3, dtype=torch.float64)
    calls: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "matmul": torch.matmul,
        "mm": torch.ops.aten.mm.default,
        "linear": F.linear,
        "einsum": lambda a, b: torch.einsum("ij,jk->ik", a, b),
        "tensordot": lambda a, b: torch.tensordot(a, b, 1),
        "conv1d": lambda a, b: F.conv1d(a[None], b[:, :, None]),
        "attention": lambda a, b: F.scaled_dot_product_attention(a[None], b[None], b[None]),
        "addmm": lambda a, b: torch.addmm(a, b, b),
        "@": lambda a, b: a @ b,
    }
    with DoubleKernels():
        found = calls[name](one, other)
    assert found.dtype is torch.float64
    assert torch.equal(found, calls[name](one.double(), other))


def test_a_tensor_that_code_makes_of_the_least_float64_has_that_precision() -> None:
    least = torch.finfo(torch.float64).min
    with DoubleKernels():
        assert torch.full((), least).item() == least
        assert torch.full((2,), 1.0).dtype is torch.float32
