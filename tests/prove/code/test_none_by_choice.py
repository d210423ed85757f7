"""Names that are None by a choice of the same code: two models that hold no such part are one function."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import fxmap


class Gated(nn.Module):
    """A layer with a gate that it need not have, and a head that is not run."""

    def __init__(self, classes: int, sign: int = 1, *, gated: bool = False) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(8, 8), nn.Linear(8, classes)
        self.gate = nn.Linear(8, 8) if gated else None
        self.sign = sign

    def features(self, x: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid() if self.gate is not None else None
        y: Tensor = self.a(x)
        if gate is not None:
            y = y + gate * self.sign
        return y


class LookedUp(Gated):
    def features(self, x: Tensor, options: Mapping[str, Any] | None = None) -> Tensor:
        gate = options.get("gate") if options is not None else None
        y: Tensor = self.a(x)
        if gate is not None:
            y = y * gate * self.sign
        return y


def _proof(src: nn.Module, dst: nn.Module, *example: Any) -> fxmap.Proof:
    def features(model: Any, *inputs: Any) -> Any:
        return model.features(*inputs)

    return fxmap.auto_map(src, dst, example_inputs=example, src_forward=features, dst_forward=features).proof


def test_a_gate_that_neither_model_has_stands_against_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 8)
    assert _proof(Gated(5), Gated(3), x).ok
    assert not _proof(Gated(5, gated=True), Gated(3, gated=True, sign=-1), x).ok


def test_a_gate_that_the_caller_gives_is_still_tried() -> None:
    torch.manual_seed(0)
    assert not _proof(LookedUp(5), LookedUp(3, sign=-1), torch.randn(3, 8), {"other": 1}).ok
