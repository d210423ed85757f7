"""Biases that are added behind layers, and paddings of layers whose weight is moved."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap.graph.opgraph import OpGraph
from fxmap.matching.sides import side
from fxmap.model.inputs import as_inputs


class Moved(nn.Module):
    """A linear layer on columns, whose bias is added along rows, and a convolution with its bias behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(4, 6), nn.Conv1d(6, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        columns = F.softplus(self.linear.weight @ x.transpose(1, 2) + self._moved(self.linear.bias))
        return F.conv1d(columns, self.conv.weight) + self.conv.bias.view(-1, 1)

    @staticmethod
    def _moved(bias: Tensor) -> Tensor:
        return bias[..., None]


class Wrong(Moved):
    """The bias of the linear layer meets positions, of which there are as many as channels."""

    @staticmethod
    def _moved(bias: Tensor) -> Tensor:
        return bias


def _graph(model: nn.Module, x: Tensor) -> OpGraph:
    return side(model, as_inputs(x)).main.ops


def _biases(model: nn.Module, x: Tensor) -> list[str]:
    ops = _graph(model, x)
    kinds = "linear", "convolution"
    return [op.kind for op in ops.ops() if op.kind in kinds and "bias" in ops.tensors(op.name)]


def test_a_bias_belongs_to_the_layer_whose_channels_it_meets() -> None:
    assert _biases(Moved(), torch.randn(2, 6, 4)) == ["linear", "convolution"]


def test_a_bias_along_positions_is_no_bias() -> None:
    assert _biases(Wrong(), torch.randn(2, 6, 4)) == ["convolution"]


class Causal(nn.Module):
    """A depthwise convolution over the past, whose weight is squeezed and unsqueezed before it is read."""

    def __init__(self, *, moved: bool) -> None:
        super().__init__()
        self.conv, self.moved = nn.Conv1d(3, 3, 4, groups=3, padding=3), moved

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight.squeeze(1).unsqueeze(1) if self.moved else self.conv.weight
        return F.silu(F.conv1d(x, weight, self.conv.bias, padding=3, groups=3)[..., : x.shape[-1]])


@pytest.mark.parametrize("moved", [False, True])
def test_a_cut_behind_a_convolution_is_its_padding(moved: bool) -> None:
    ops = _graph(Causal(moved=moved), torch.randn(2, 3, 9))
    assert [str(op.attribute("padding")) for op in ops.of_kind({"convolution"})] == ["3 and 0"]


class Pools(nn.Module):
    def __init__(self, *, stacked: bool) -> None:
        super().__init__()
        self.first, self.last, self.stacked = nn.Conv2d(2, 3, 1), nn.Conv2d(9, 2, 1), stacked

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.stacked:
            small = F.max_pool2d(x, 3, 1, 1)
            return self.last(torch.cat([F.max_pool2d(small, 3, 1, 1), small, x], 1))
        return self.last(torch.cat([x, F.max_pool2d(x, 3, 1, 1), F.max_pool2d(x, 5, 1, 2)], 1))


def test_pools_one_behind_another_are_proven_equal_to_pools_side_by_side_in_another_order() -> None:
    mapping = fxmap.auto_map(Pools(stacked=False), Pools(stacked=True), example_inputs=torch.randn(2, 2, 7, 7))
    assert mapping.ok
    assert "last.weight" in str(mapping["last.weight"])


class Positions(nn.Module):
    def __init__(self, rows: int, first: int) -> None:
        super().__init__()
        self.table, self.layer, self.first = nn.Parameter(torch.randn(rows, 4)), nn.Linear(4, 3), first

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        rows = self.table[torch.arange(length) + self.first] if self.first else self.table[:length]
        return self.layer(torch.tanh(x + rows))


def test_a_table_of_positions_is_the_rows_behind_those_for_padding() -> None:
    mapping = fxmap.auto_map(Positions(12, 2), Positions(10, 0), example_inputs=torch.randn(2, 7, 4))
    assert mapping.ok
    assert str(mapping["table"]) == "table[2:12]"
