"""Samples of inputs that sizes of values depend on."""

import torch
from torch import Tensor, nn

import fxmap


class Edges(nn.Module):
    """A sum over edges between different nodes: how many there are depends on the numbers of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 3, bias=False), nn.Linear(4, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        edges = edges[:, edges[0] != edges[1]]
        near = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
        summed: Tensor = self.one(near) + self.two(x)
        return summed


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 3)), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        near = torch.zeros(len(x), len(x), dtype=x.dtype)
        near = near.index_put((edges[1], edges[0]), torch.ones(edges.shape[1], dtype=x.dtype), accumulate=True)
        return torch.cat([(near * (1 - torch.eye(len(x), dtype=x.dtype))) @ x, x], 1) @ self.weight + self.bias


def test_what_sizes_depend_on_is_held_while_weights_are_solved_for() -> None:
    edges = torch.tensor([[0, 1, 2, 3, 4, 2], [1, 2, 2, 4, 0, 0]])
    src = Edges()
    made = fxmap.auto_map(src, Joined(), example_inputs=(torch.randn(5, 4), edges)).apply(src.state_dict())
    assert torch.equal(made["weight"], torch.cat([src.one.weight, src.two.weight], 1).T)
    assert torch.equal(made["bias"], src.two.bias)
