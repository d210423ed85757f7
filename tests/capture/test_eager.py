"""What code computes from stored tensors behind the proxies of a trace is no constant of the graph."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.capture.symbolic import capture_symbolic
from fxmap.errors import CaptureError


class Gain(nn.Module):
    """A layer with a gain, which code reads in some way and computes with."""

    def __init__(self, name: str, how: str) -> None:
        super().__init__()
        self.layer, self.name, self.how = nn.Linear(3, 3), name, how
        if how == "buffer":
            self.register_buffer(name, torch.randn(3))
        else:
            self.register_parameter(name, nn.Parameter(torch.randn(3)))
        self.own = {"gain": getattr(self, name)}

    def forward(self, x: Tensor) -> Tensor:
        ways: dict[str, Any] = {
            "attribute": lambda: getattr(self, self.name),
            "buffer": lambda: getattr(self, self.name),
            "parameters()": lambda: dict(self.named_parameters())[self.name],
            "dict": lambda: self.own["gain"],
        }
        out: Tensor = self.layer(x) + 2 * ways[self.how]()
        return out


@pytest.mark.parametrize("how", ["attribute", "buffer", "parameters()", "dict"])
def test_a_tensor_is_read_however_code_gets_at_it(how: str) -> None:
    mapping = fxmap.auto_map(Gain("a", how), Gain("b", how), example_inputs=torch.randn(2, 3), verify=False)
    assert mapping.renames["b"] == "a"
    assert mapping.knowledge.unread == ()


def test_the_error_names_the_tensor() -> None:
    with pytest.raises(CaptureError, match="computes with a where"):
        capture_symbolic(Gain("a", "dict"))


def test_a_tensor_that_is_read_as_it_is_needs_no_proxy() -> None:
    class Plain(Gain):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x) + self.own["gain"]
            return out

    graph = capture_symbolic(Plain("a", "dict")).graph
    assert "a" in {str(node.target) for node in graph.nodes if node.op == "get_attr"}
