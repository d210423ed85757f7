"""Operations written out give torch's own values, in the dtypes that torch has."""

import pytest
import torch
import torch.nn.functional as F

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
