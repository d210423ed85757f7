"""Modes that code of a model leaves on torch's stacks."""

import torch
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode

import fxmap
from fxmap.model.inputs import as_inputs

DEEPEST = [0]


class Leaving(nn.Module):
    """A model that leaves a mode behind in each run."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        BaseTorchFunctionMode().__enter__()
        DEEPEST[0] = max(DEEPEST[0], torch._C._len_torch_function_stack())
        out: Tensor = self.get_submodule(self.name)(x)
        return out


def test_a_run_leaves_no_mode() -> None:
    as_inputs(torch.ones(1, 4)).call(Leaving("a"))
    assert torch._C._len_torch_function_stack() == 0


def test_what_a_model_leaves_does_not_grow_from_run_to_run() -> None:
    DEEPEST[0] = 0
    mapping = fxmap.auto_map(Leaving("a"), Leaving("b"), example_inputs=torch.randn(2, 4))
    assert mapping.proof.ok
    assert DEEPEST[0] < 12
