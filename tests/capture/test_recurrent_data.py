"""Models that give a parameter other data while their run is recorded."""

import torch
from torch import Tensor, nn

import fxmap


class Replacing(nn.Module):
    """A model that makes a layer in its forward, which writes in place, and replaces the data of another one."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Linear(4, 4))
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        nn.Linear(1, 1)
        layer = self.get_submodule(self.name)
        layer.weight.data = torch.ones(4, 4)
        if float(x.sum()) > 1e9:  # keeps symbolic tracing out
            return x
        out: Tensor = self.out(layer(x).tanh())
        return out


def test_data_that_is_replaced_in_a_functional_recording_does_not_end_the_process() -> None:
    mapping = fxmap.auto_map(Replacing("a"), Replacing("b"), example_inputs=torch.randn(3, 4))
    assert str(mapping["b.bias"]) == "a.bias"
