"""Regions: any block of any expression equals that block of the whole, and reads no more than it needs."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxmap.expressions.arithmetic import Difference, FoldedWeight, Full, RowScaled, Scaled, Shifted, Sum
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Columns, Concat, Gather, Permute, Reshape, Slice, Transpose
from fxmap.expressions.regions import Region, cut, evaluate_region, extents
from fxmap.files.lazy import LazyTensor

A, B, V = Source("a"), Source("b"), Source("v")

EXPRESSIONS: dict[str, Expression] = {
    "rename": A,
    "slice": Slice(A, 2, 7),
    "gather of runs": Gather(A, (4, 5, 6, 7, 0, 1, 2, 3)),
    "interleaved": Gather(A, (0, 4, 1, 5, 2, 6, 3, 7)),
    "columns": Columns(A, (5, 0, 3, 2, 1, 4)),
    "concat": Concat((A, Slice(B, 1, 3), A)),
    "transpose": Transpose(Slice(A, 2, 7)),
    "permute": Permute(Reshape(A, (8, 2, 3)), (2, 0, 1)),
    "heads permuted": Reshape(Permute(Reshape(A, (2, 2, 2, 6)), (0, 2, 1, 3)), (8, 6)),
    "stack": Concat((Reshape(A, (1, 8, 6)), Reshape(B, (1, 8, 6)))),
    "unstack": Reshape(Slice(Reshape(A, (4, 2, 6)), 1, 2), (2, 6)),
    "linear as 1x1 convolution": Reshape(A, (8, 6, 1, 1)),
    "regrouped": Reshape(A, (6, 8)),
    "coarser rows": Reshape(A, (4, 12)),
    "sums": Sum((A, B, Scaled(A, 3.0))),
    "difference": Difference(Shifted(A, 0.5), B),
    "rows scaled": RowScaled(A, V),
    "constant": Concat((A, Full((3, 6), 0.25, B))),
    "fold": FoldedWeight("linear", A, V, 1e-5, V),
}


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(8, 6, generator=generator),
        "b": torch.randn(8, 6, generator=generator),
        "v": torch.rand(8, generator=generator) + 0.5,
    }


@pytest.mark.parametrize("name", EXPRESSIONS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_block_equals_that_block_of_the_whole(name: str, data: Any) -> None:
    whole = EXPRESSIONS[name].evaluate(state())
    region = []
    for extent in whole.shape:
        start = data.draw(st.integers(0, extent))
        region.append((start, data.draw(st.integers(start, extent))))
    found = evaluate_region(EXPRESSIONS[name], state(), tuple(region))
    expected = cut(whole, tuple(region))
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


class Counted:
    """A lazy tensor of ones that remembers how many numbers were read of it."""

    def __init__(self, *shape: int) -> None:
        self.read = 0
        self.tensor = LazyTensor(shape, torch.float32, self.make)

    def make(self, region: Region) -> torch.Tensor:
        made = torch.ones(extents(region))
        self.read += made.numel()
        return made


@pytest.mark.parametrize(
    ("expression", "region", "read"),
    [
        (A, ((0, 2), (0, 6)), 12),
        (Slice(A, 4, 8), ((1, 2), (0, 6)), 6),
        (Transpose(A), ((0, 1), (0, 8)), 8),
        (Concat((Slice(A, 0, 4), Slice(A, 4, 8))), ((3, 5), (0, 6)), 12),
        (Concat((Reshape(Slice(A, 0, 4), (1, 4, 6)), Reshape(Slice(A, 4, 8), (1, 4, 6)))), ((1, 2), (0, 4), (0, 6)), 24),
        (Reshape(Permute(Reshape(A, (2, 2, 2, 6)), (0, 2, 1, 3)), (8, 6)), ((4, 8), (0, 6)), 24),
        (Reshape(A, (8, 6, 1, 1)), ((0, 8), (2, 4), (0, 1), (0, 1)), 16),
        (Gather(A, (4, 5, 6, 7, 0, 1, 2, 3)), ((0, 4), (0, 3)), 12),
        (Sum((A, A)), ((7, 8), (0, 6)), 12),
    ],
)
def test_a_block_reads_what_it_needs(expression: Expression, region: Region, read: int) -> None:
    counted = Counted(8, 6)
    evaluate_region(expression, {"a": counted.tensor}, region) + 0
    assert counted.read == read
